// Runs inside Gradio's component: sends the file, then tells Gradio under which key it is kept.
const drop = element.querySelector(".drop");
const input = drop.querySelector("input");
const status = element.querySelector("[role=status]");
const bar = element.querySelector("progress");
const most = Number(drop.dataset.most);

function send(file) {
  if (file.size > most) {
    status.textContent = `${file.name} has ${(file.size / 1e6).toFixed(1)} MB; at most ${most / 1e6} MB are taken.`;
    return;
  }
  const request = new XMLHttpRequest();
  request.open("POST", "videos");
  request.setRequestHeader("X-Name", encodeURIComponent(file.name));
  request.upload.onprogress = (event) => { bar.value = event.loaded / event.total; };
  request.onload = () => {
    status.textContent = request.status === 200 ? "" : request.responseText;
    if (request.status === 200) trigger("upload", { key: request.responseText });
  };
  request.onerror = () => { status.textContent = `${file.name} did not arrive; try again.`; };
  request.onloadend = () => { bar.hidden = true; input.disabled = false; input.value = ""; };
  status.textContent = `Uploading ${file.name}`;
  bar.value = 0;
  bar.hidden = false;
  input.disabled = true;
  request.send(file);
}

input.addEventListener("change", () => { if (input.files[0]) send(input.files[0]); });
drop.addEventListener("dragover", (event) => event.preventDefault());
drop.addEventListener("drop", (event) => {
  event.preventDefault();
  if (event.dataTransfer.files[0] && !input.disabled) send(event.dataTransfer.files[0]);
});
