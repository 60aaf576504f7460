// Trains as a room does, without a page, and prints what ../test_live.py compares with PyTorch's.
import fs from 'node:fs';
import {digits, load} from './static.mjs';

const live = load(
  ['net.js', 'live.js'],
  `unpack, newRun, look, learn, check, pixels, newModel, newGrad, generator, randperm, backward,
   argmax, forward, layersOf, asMnist, sharesOf, gradientOf`.split(','),
);
const job = JSON.parse(fs.readFileSync(0, 'utf8'));
const data = await live.unpack(digits());
const text = array => Buffer.from(Float64Array.from(array).buffer).toString('base64');
const texts = named => Object.values(named).map(text);

function trained({steps, inFileOrder, ...set}) {
  const run = live.newRun(data);
  if (inFileOrder) run.order = run.order.map((_, i) => i); // of the first epoch
  for (let i = 0; i < steps; i++) live.learn(run, set);
  const {loss, right, dead} = live.check(run, set);
  return {losses: text(run.losses), model: texts(run.model), loss, right, dead: dead.length};
}

// The gradients of the first minibatch
function gradients(set) {
  const run = live.newRun(data);
  const {pass, target} = live.look(run, set);
  live.backward(run.model, run.grad, pass, target, set.mistake !== 'no ReLU');
  return texts(run.grad);
}

// What it reads of drawings after so many steps
function drawings({strokes, steps}) {
  const images = strokes.map(live.asMnist);
  const run = live.newRun(data);
  const guesses = steps.map(count => {
    while (run.steps < count) live.learn(run, {rate: 0.5, rows: 50, mistake: 'none'});
    return images.map(x => live.argmax(live.forward(live.layersOf(run.model), x)[2])[0]);
  });
  return {images: images.map(text), guesses};
}

const answers = {
  digits: () => ({levels: text(data.levels), labels: text(data.labels)}),
  model: ({seed}) => texts(live.newModel(seed)),
  order: ({n, seed}) => text(live.randperm(n, live.generator(seed))),
  shares: ({scores, ...set}) =>
    Object.values(live.sharesOf(scores, set)).map(v => text([v].flat())),
  gradient: ({p}) => text(live.gradientOf(p)),
  trained,
  gradients,
  drawings,
};
console.log(JSON.stringify(job.map(({ask, ...what}) => answers[ask](what))));
