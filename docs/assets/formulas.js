// Draws the equations that pymdownx.arithmatex has marked. KaTeX is loaded only by pages
// that have one, from beside this file, so that the site works from files too.
(() => {
  const here = new URL("katex/", document.currentScript.src);

  const macros = {
    "\\mean": "\\operatorname*{mean}",
    "\\softmax": "\\operatorname*{softmax}",
    "\\argmin": "\\operatorname*{arg\\,min}",
    "\\argmax": "\\operatorname*{arg\\,max}",
    "\\KL": "\\operatorname{KL}",
    "\\CE": "\\operatorname{CE}",
    "\\norm": "\\lVert #1 \\rVert",
  };

  const draw = () => {
    for (const element of document.querySelectorAll(".arithmatex")) {
      const text = element.textContent.trim();
      const displayMode = text.startsWith("\\[");
      try {
        katex.render(text.slice(2, -2), element, { displayMode, macros });
      } catch (error) {
        // The source stays readable, and `make docs-check` finds the class.
        element.classList.add("katex-error");
        element.title = error.message;
      }
    }
  };

  const load = () => {
    if (!document.querySelector(".arithmatex")) return;
    const style = document.createElement("link");
    style.rel = "stylesheet";
    style.href = new URL("katex.min.css", here).href;
    document.head.append(style);
    const script = document.createElement("script");
    script.src = new URL("katex.min.js", here).href;
    script.onload = draw;
    document.head.append(script);
  };

  if (document.readyState === "loading") {
    document.addEventListener("DOMContentLoaded", load);
  } else {
    load();
  }
})();
