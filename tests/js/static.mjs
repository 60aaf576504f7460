// The functions of static files that are put into pages one after the other, within one function.
import fs from 'node:fs';

export function load(files, names) {
  const folder = new URL('../../mnist_mb/static/', import.meta.url);
  const code = files.map(name => fs.readFileSync(new URL(name, folder), 'utf8')).join('\n');
  const document = {querySelectorAll: () => [], querySelector: () => null, dispatchEvent: () => {}};
  return new Function('document', `'use strict';\n${code}; return {${names}}`)(document);
}

export const digits = () =>
  fs.readFileSync(new URL('../../mnist_mb/static/digits.txt', import.meta.url), 'utf8');
