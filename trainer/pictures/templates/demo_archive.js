element.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-video]");
  if (!button) return;
  const { video, start, end } = button.dataset;
  trigger("click", { video, start: Number(start), end: Number(end) });
});
