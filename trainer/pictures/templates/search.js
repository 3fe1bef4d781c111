// Hides the rows of a table in which not every word of the field beside it stands.
for (const field of document.querySelectorAll("input[data-searches]")) {
  const rows = [...document.querySelectorAll(`#${field.dataset.searches} tbody tr`)];
  const texts = rows.map((row) => row.textContent.toLowerCase());
  const count = document.getElementById(`${field.dataset.searches}-count`);
  const search = () => {
    const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    rows.forEach((row, place) => {
      row.hidden = !words.every((word) => texts[place].includes(word));
      shown += !row.hidden;
    });
    count.textContent = words.length ? `${shown} of ${rows.length}` : "";
  };
  field.addEventListener("input", search);
}
