// A window plays from its start; a line on the timelines goes with the video. A sentence to try is
// asked.
(() => {
  let offset = 0; // where in the video the clip begins that is played in its place
  const screen = () => document.getElementById("video");
  const unplayable = () => !document.getElementById("unplayable").hidden;

  document.addEventListener("click", (event) => {
    const window = event.target.closest("button.track"); // of the video that is shown
    const video = screen();
    if (!window || !video) return;
    const start = Number(window.dataset.start);
    if (unplayable()) {
      offset = start;
      video.src = window.dataset.clip;
    } else {
      offset = 0;
      video.currentTime = start;
    }
    video.play().catch(() => {}); // a fault of the file is told by its error event
    video.scrollIntoView({ block: "nearest", behavior: "smooth" });
  });

  document.addEventListener("click", (event) => {
    const chosen = event.target.closest("button[data-try]");
    if (!chosen) return;
    const sentences = document.querySelector("#sentences textarea");
    sentences.value = chosen.dataset.try;
    sentences.dispatchEvent(new Event("input", { bubbles: true }));
    setTimeout(() => document.getElementById("find").click(), 0); // once Gradio knows the sentence
  });

  // Events of a video do not bubble.
  document.addEventListener("error", (event) => {
    const video = screen();
    if (event.target !== video) return;
    document.getElementById("unplayable").hidden = false;
    const clip = video.dataset.clip; // of a moment of the archive, once
    delete video.dataset.clip;
    if (clip) {
      offset = Number(clip.match(/([\d.]+)-[\d.]+\.mp4$/)[1]);
      video.src = clip;
    }
  }, true);
  document.addEventListener("loadedmetadata", (event) => {
    const video = screen();
    if (event.target !== video || !video.autoplay) return; // a moment of the archive
    video.scrollIntoView({ block: "nearest", behavior: "smooth" });
  }, true);
  document.addEventListener("timeupdate", (event) => {
    if (event.target !== screen()) return;
    for (const rows of document.querySelectorAll(".rows[data-duration]")) {
      const share = (offset + event.target.currentTime) / Number(rows.dataset.duration);
      rows.style.setProperty("--now", `${Math.min(100 * share, 100)}%`);
      rows.classList.add("playing");
    }
  }, true);
})();
