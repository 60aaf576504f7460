import js from '@eslint/js';
import globals from 'globals';

const rules = {
  ...js.configs.recommended.rules,
  eqeqeq: ['error', 'always', {null: 'ignore'}],
  'prefer-const': 'error',
  'one-var': ['error', 'never'],
};

export default [
  {files: ['**/pad.js'], languageOptions: {sourceType: 'script', globals: globals.browser}, rules},
  {
    files: ['**/*.mjs'],
    languageOptions: {
      globals: {...globals.node, ...globals.browser, axe: 'readonly', report: 'readonly'},
    },
    rules,
  },
];
