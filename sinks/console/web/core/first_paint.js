// Sets the theme before the first paint. A classic script, because modules run after it.
(function () {
  var chosen = null;
  try { chosen = localStorage.getItem("perpflow.theme"); } catch (error) { /* storage may be off */ }
  var light = chosen ? chosen === "light" : matchMedia("(prefers-color-scheme: light)").matches;
  document.documentElement.dataset.theme = light ? "light" : "dark";
})();
