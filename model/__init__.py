"""SDST in pure PyTorch: no files, no processes, no configuration parsing.

One alphabet for every shape comment in the project:

    B  batch (video, query pairs)    L  clips of a video         T  text tokens
    K  stored feature layers         S  recurrence steps         M  moment queries
    N  ground-truth windows (padded) F  hidden width             H  attention heads
    P  sampling points per head      Dv, Dt  widths of the frozen video and text features

Masks are boolean and True where the entry is real. Spans are (centre, width) in [0, 1] unless a
name says otherwise.
"""
