#!/bin/sh
# The C compiler of the CUDA image: tcc, which does not know the linker's -l:NAME, by which Triton
# asks for the driver's library. The name becomes the path under one of the -L folders.
for word; do
    case $word in -L*) folders="$folders ${word#-L}" ;; esac
done
for word; do
    shift
    case $word in
        -l:*)
            for folder in $folders; do
                [ ! -e "$folder/${word#-l:}" ] || word=$folder/${word#-l:}
            done
            ;;
    esac
    set -- "$@" "$word"
done
exec tcc "$@"
