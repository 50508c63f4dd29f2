// what both pages use: an element of the page by its id, and a new element of a drawing
const by = name => document.getElementById(name), SVG = "http://www.w3.org/2000/svg";

function draw(tag, parent, attributes, text) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  parent.appendChild(made);
  return made;
}
