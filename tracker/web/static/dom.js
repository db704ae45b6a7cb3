/** The two things that every part of the page does with its nodes. Text is only ever text. */

/**
 * Write only what differs: an unchanged node costs no layout.
 * @param {Element} node @param {string} text
 */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/**
 * @template {keyof HTMLElementTagNameMap} Name
 * @param {Name} name @param {string} className @param {string} [text]
 * @returns {HTMLElementTagNameMap[Name]}
 */
export function make(name, className, text = "") {
  const element = document.createElement(name);
  if (className) element.className = className;
  if (text) element.textContent = text;
  return element;
}

/** @param {string} id of an element that the page is known to have @returns {any} */
export function byId(id) {
  return document.getElementById(id);
}
