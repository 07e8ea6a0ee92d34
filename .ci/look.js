// What a page looks like, measured in the page itself. `measure(width, dark)` is called once for each view.
(view) => {
  const main = document.querySelector('main');
  const shown = element => element.offsetParent !== null && element.getClientRects().length > 0;
  const text = element => (element.textContent || '').trim().replace(/\s+/g, ' ').slice(0, 70);
  const found = {scrolls: [], wraps: [], tables: [], wide: [], slabs: [], faint: []};
  document.body.className = 'fullcontent ' + (view.dark ? 'quarto-dark' : 'quarto-light');

  const screen = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth > screen + 1)
    for (const one of main.querySelectorAll('*'))
      if (shown(one) && one.getBoundingClientRect().right > screen + 1 && one.children.length === 0)
        found.wide.push(text(one) || one.tagName);
  found.page = document.documentElement.scrollWidth;
  found.height = document.documentElement.scrollHeight;

  const over = one => one.scrollWidth > one.clientWidth + 1;
  const blocks = [...main.querySelectorAll('pre')].filter(shown);
  found.blocks = blocks.length;
  for (const pre of blocks)
    if (over(pre) || over(pre.parentElement)) found.scrolls.push(text(pre));
  for (const table of main.querySelectorAll('table'))
    if (shown(table) && (over(table) || over(table.parentElement) ||
                         table.getBoundingClientRect().right > screen + 1)) found.tables.push(text(table));

  if (view.width > 1000 && !view.dark) {  // with the folds open: which lines of code would be broken?
    const folds = [...main.querySelectorAll('details.code-fold:not([open])')];
    folds.forEach(fold => fold.open = true);
    const all = [...main.querySelectorAll('pre')].filter(shown);
    found.blocks = all.length;
    all.forEach(pre => pre.classList.add('unbroken'));
    for (const pre of all)
      if (over(pre) || over(pre.parentElement))
        found.wraps.push([pre.closest('.cell-output') ? 'output' : 'code', text(pre)]);
    all.forEach(pre => pre.classList.remove('unbroken'));
    folds.forEach(fold => fold.open = false);
  }

  if (view.dark && view.width > 1000) {
    const parse = colour => (colour.match(/[\d.]+/g) || []).map(Number);
    const light = ([r, g, b]) => [r, g, b].map(v => v / 255).map(
      v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4).reduce(
      (sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
    const ground = element => {
      let layers = [];
      for (let one = element; one; one = one.parentElement) {
        const colour = parse(getComputedStyle(one).backgroundColor);
        const alpha = colour.length > 3 ? colour[3] : 1;
        if (alpha > 0) layers.push([colour, alpha]);
        if (alpha === 1) break;
      }
      let under = [255, 255, 255];
      for (const [colour, alpha] of layers.reverse())
        under = under.map((v, i) => v * (1 - alpha) + colour[i] * alpha);
      return under;
    };
    const seen = new Set();
    for (const one of main.querySelectorAll('p,li,td,th,code,pre,summary,figcaption,.description')) {
      if (!shown(one) || !text(one)) continue;
      const key = one.tagName + one.className + (one.parentElement || {}).className +
        getComputedStyle(one).color;
      if (seen.has(key)) continue;
      seen.add(key);
      const [a, b] = [light(parse(getComputedStyle(one).color)), light(ground(one))];
      const contrast = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
      if (contrast < 4.5) found.faint.push(`${one.tagName} ${contrast.toFixed(1)}: ${text(one)}`);
      if (one.tagName === 'CODE' && light(ground(one)) > .5) found.slabs.push('code: ' + text(one));
    }
    const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
    canvas.canvas.width = canvas.canvas.height = 24;
    for (const image of main.querySelectorAll('img')) {
      if (!image.complete || !image.naturalWidth || getComputedStyle(image).filter !== 'none') continue;
      canvas.fillStyle = '#222'; canvas.fillRect(0, 0, 24, 24);
      try { canvas.drawImage(image, 0, 0, 24, 24); } catch { continue; }
      let pixels;
      try { pixels = canvas.getImageData(0, 0, 24, 24).data; } catch { continue; }
      let white = 0;
      for (let i = 0; i < pixels.length; i += 4)
        if (Math.min(pixels[i], pixels[i + 1], pixels[i + 2]) > 240) white++;
      if (white > .5 * 24 * 24) found.slabs.push('figure: ' + image.alt.slice(0, 60));
    }
  }

  if (view.width > 1000 && !view.dark) {
    found.ids = [...document.querySelectorAll('[id]')].map(one => one.id);
    found.links = [...main.querySelectorAll('a[href]')].map(one => one.getAttribute('href'));
    found.noalt = [...main.querySelectorAll('img,svg')].filter(one =>
      !one.closest('[aria-hidden=true]') && !one.getAttribute('aria-label') && !one.getAttribute('alt') &&
      !one.querySelector('title') && one.getAttribute('role') !== 'presentation'
      && one.getAttribute('alt') !== '').map(one => one.getAttribute('src') || 'svg');
    found.emptyalt = [...main.querySelectorAll('img[alt=""]')].filter(one =>
      !one.closest('table')).map(one => one.getAttribute('src'));
    const first = main.querySelector('img,svg,canvas,figure');
    const signature = main.querySelector('.signature');
    found.late = !!signature && (!first ||
      !!(first.compareDocumentPosition(signature) & Node.DOCUMENT_POSITION_PRECEDING));
    found.picture = first ? Math.round(first.getBoundingClientRect().top + scrollY) : null;
    found.text = main.innerText;
    found.code = [...main.querySelectorAll('.cell-output')].map(one => one.textContent).join('\n');
    found.hollow = [...main.querySelectorAll('p')].filter(one => {
      if (!/:$/.test(one.textContent.trim()) || one.closest('li,td,blockquote,figure')) return false;
      let next = one.nextElementSibling;
      for (let up = one; !next && up !== main; up = up.parentElement) next = up.nextElementSibling;
      while (next && next.classList.contains('cell') && !next.textContent.trim() &&
             !next.querySelector('img,svg')) next = next.nextElementSibling;
      if (next && (next.id.startsWith('api-') || next.querySelector('math'))) return false;
      return !next || /^(P|H\d|HR|SECTION)$/.test(next.tagName);
    }).map(one => one.textContent.trim().slice(-90));
    found.empty = [...main.querySelectorAll('.cell-output')].filter(one =>
      !one.textContent.trim() && !one.querySelector('img,svg,canvas,input')).length;
    found.signatures = [...main.querySelectorAll('.signature pre')].map(one => one.textContent);
  }
  return found;
}
