import js from '@eslint/js';
import globals from 'globals';

const rules = {
  ...js.configs.recommended.rules,
  eqeqeq: ['error', 'always', {null: 'ignore'}],
  'prefer-const': 'error',
  'one-var': ['error', 'never'],
};

// The functions of net.js stand before live.js, in the same function
const net = 'linear forward logSoftmax softmax nll argmax backward step zero generator randperm';
const ofNet = Object.fromEntries(`${net} newModel newGrad`.split(' ').map(name => [name, false]));
const script = names => ({sourceType: 'script', globals: {...globals.browser, ...names}});

export default [
  {files: ['**/pad.js'], languageOptions: script({}), rules},
  {
    files: ['**/net.js'],
    languageOptions: script({}),
    rules: {...rules, 'no-unused-vars': ['error', {vars: 'local'}]},
  },
  {files: ['**/live.js'], languageOptions: script(ofNet), rules},
  {
    files: ['**/*.mjs'],
    languageOptions: {
      globals: {...globals.node, ...globals.browser, axe: 'readonly', report: 'readonly'},
    },
    rules,
  },
];
