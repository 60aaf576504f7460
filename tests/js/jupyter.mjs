// Puts an output into a page as JupyterLab does: its scripts are made anew, before or after the
// page has it.
export const insert = (tab, html, attached = true) =>
  tab.evaluate(
    ([html, attached]) => {
      const host = document.createElement('div');
      const output = document.querySelector('#output');
      if (attached) output.append(host);
      host.innerHTML = html;
      for (const old of host.querySelectorAll('script')) {
        const script = document.createElement('script');
        for (const {name, value} of old.attributes) script.setAttribute(name, value);
        script.textContent = old.textContent;
        old.replaceWith(script);
      }
      if (!attached) output.append(host);
    },
    [html, attached],
  );
