(() => {
  "use strict";
  const form = document.getElementById("filter");
  const claims = [...document.querySelectorAll(".claim")];
  const groups = [...document.querySelectorAll(".group")];
  const openAll = document.getElementById("open-all");

  const visible = (claim) => !claim.hasAttribute("data-filtered");

  const filter = () => {
    const { study, arm, verdict } = form.elements;
    const chosen = study.value || arm.value || verdict.value;
    for (const claim of claims) {
      const { study: of, arms, verdict: given } = claim.dataset;
      const fits =
        (!study.value || of === study.value) &&
        (!arm.value || arms.split(" ").includes(arm.value)) &&
        (!verdict.value || given === verdict.value);
      claim.toggleAttribute("data-filtered", !fits);
    }
    for (const group of groups) {
      const some = [...group.querySelectorAll(".claim")].some(visible);
      group.toggleAttribute("data-filtered", !some);
      if (chosen && some) group.open = true;
    }
    const count = claims.filter(visible).length;
    document.getElementById("shown").value = `${count} of ${claims.length} claims`;
  };

  // A link into something closed opens it, in browsers that don't by themselves, too.
  const reveal = () => {
    const target = location.hash && document.getElementById(location.hash.slice(1));
    if (!target) return;
    for (let node = target; node; node = node.parentElement) {
      if (node.tagName === "DETAILS") node.open = true;
    }
    target.scrollIntoView();
  };

  let closed = [];
  addEventListener("beforeprint", () => {
    closed = [...document.querySelectorAll("details:not([open])")];
    for (const details of closed) details.open = true;
  });
  addEventListener("afterprint", () => {
    for (const details of closed) details.open = false;
  });

  form.addEventListener("change", filter);
  form.addEventListener("reset", () => setTimeout(filter));
  openAll.addEventListener("click", () => {
    const shown = claims.filter(visible);
    const open = shown.some((claim) => !claim.open);
    for (const claim of shown) claim.open = open;
    if (open) for (const group of groups) group.open = true;
    openAll.textContent = open ? "Close all" : "Open all";
  });
  addEventListener("hashchange", reveal);
  form.hidden = false;
  filter();
  reveal();
})();
