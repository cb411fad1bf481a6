// The widgets' script hands every label to MathJax 2's queue.  The book has MathJax 3, which has
// no such queue, and its labels are plain text: take the calls and do nothing.
window.addEventListener("load", () => {
  if (window.MathJax) window.MathJax.Hub ??= { Queue() {} };
});
