import js from '@eslint/js';
import globals from 'globals';

const rules = {
  ...js.configs.recommended.rules,
  eqeqeq: ['error', 'always', {null: 'ignore'}],
  'prefer-const': 'error',
  'one-var': ['error', 'never'],
};

// The functions of net.js stand before the others, in the same function
const net = `times forward layersOf logSoftmax softmax nll argmax backward step zero generator
  randperm newModel newGrad`;
const ofNet = Object.fromEntries(net.split(/\s+/).map(name => [name, false]));
const script = names => ({sourceType: 'script', globals: {...globals.browser, ...names}});

export default [
  {
    files: ['**/net.js'],
    languageOptions: script({}),
    rules: {...rules, 'no-unused-vars': ['error', {vars: 'local'}]},
  },
  {files: ['**/{pad,live}.js'], languageOptions: script(ofNet), rules},
  {
    files: ['**/*.mjs'],
    languageOptions: {
      globals: {...globals.node, ...globals.browser, axe: 'readonly', report: 'readonly'},
    },
    rules,
  },
];
