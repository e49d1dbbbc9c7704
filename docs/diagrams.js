// Loads mermaid from the site itself, on pages that have a diagram, before the theme would fetch it from the network.
// scripts/build_docs.py puts mermaid.min.js next to this file.
if (document.querySelector("pre.mermaid")) {
  const source = new URL("mermaid.min.js", document.currentScript.src).href;
  document.write(`<script src="${source}"></script>`); // in order: it is there when the theme looks for it
}
