// The network in JavaScript against numbers worked by hand, and its gradients against small nudges;
// ../test_live.py compares it with PyTorch.
import assert from 'node:assert/strict';
import {test} from 'node:test';
import {load} from './static.mjs';

const net = load(
  ['net.js'],
  `nonzero, linear, addProduct, addSum, times, forward, layersOf, logSoftmax, softmax, nll, argmax, backward,
   step, zero, generator, randperm, newModel, newGrad`.split(','),
);
const F = values => Float64Array.from(values);
const close = (got, want, eps = 1e-12) =>
  assert.ok(
    got.length === want.length && Array.from(got).every((v, i) => Math.abs(v - want[i]) <= eps),
    `${Array.from(got)} is not ${Array.from(want)}`,
  );

test('x @ w.T + b, also where pixels are 0', () => {
  const [w, b] = [F([1, 2, 3, 4, 5, 6]), F([10, 20])];
  close(net.linear(F([1, 0, 1, 0, 1, 0]), w, b), [14, 30, 12, 25]);
  assert.deepEqual(net.nonzero(F([9, 0, -1, 2, 0]), 1, 3), [1, 2]);
});

test('g.T @ x and g.sum(0) are added to what is there; g @ w', () => {
  const total = F([1, 1, 1, 1, 1, 1]);
  net.addProduct(total, F([1, 2, 3, 0]), F([1, 0, 2, 0, 5, 0]), 2);
  close(total, [2, 16, 3, 3, 1, 5]); // rows: 1*(1,0,2) + 3*(0,5,0) and 2*(1,0,2), each plus 1
  const sum = F([1, 1]);
  net.addSum(sum, F([1, 2, 3, 0]));
  close(sum, [5, 3]);
  close(net.times(F([1, 2, 3, 0]), F([1, 2, 3, 4, 5, 6]), 2), [9, 12, 15, 3, 6, 9]);
});

test('forward: two layers, and the ReLU between them or none', () => {
  const model = {w1: F([1, -1, 2, 1]), b1: F([0.5, -1]), w2: F([1, 3, -2, 1]), b2: F([0, 0.25])};
  const [x, h, logits] = net.forward(net.layersOf(model), F([1, 2]));
  close(x, [1, 2]);
  close(h, [0, 3]); // 1 - 2 + 0.5 is below 0
  close(logits, [9, 3.25]);
  const [, a, others] = net.forward(net.layersOf(model, false), F([1, 2]));
  close(a, [-0.5, 3]);
  close(others, [8.5, 4.25]);
});

test('log-softmax adds to 1, is shifted row by row, and survives large logits', () => {
  const third = Math.log(1 / 4);
  close(net.logSoftmax(F([0, Math.log(3), 1000, 1000 + Math.log(3)]), 2), [
    third,
    third + Math.log(3),
    third,
    third + Math.log(3),
  ]);
  close(net.softmax(F([-1e5, 0, 0]), 3), [0, 0.5, 0.5]);
});

test('the loss is the mean over the rows; the guess is the largest', () => {
  const logits = F([1, 5, 2, 7, 0, 3]);
  const logProbs = net.logSoftmax(logits, 3);
  const mean = -(logProbs[1] + logProbs[5]) / 2;
  assert.ok(Math.abs(net.nll(logProbs, [1, 2], 3) - mean) < 1e-15);
  assert.deepEqual(Array.from(net.argmax(logits, 3)), [1, 0]);
  assert.equal(net.nll(net.logSoftmax(new Float64Array(20)), [3, 9]).toFixed(4), '2.3026');
});

// A small network with eight rows, one pixel of which is 0
const random = net.generator(3);
const draw = length => Float64Array.from({length}, () => random() / 2 ** 31 - 1);
const small = () => ({w1: draw(12), b1: draw(4), w2: draw(40), b2: draw(10)});
const x = draw(24);
x[4] = 0;
const target = [7, 2, 0, 9, 2, 5, 1, 3];

for (const relu of [true, false])
  test(`every derivative is what a nudge says, ${relu ? 'with' : 'without'} the ReLU`, () => {
    const model = small();
    const layers = net.layersOf(model, relu);
    const loss = () => net.nll(net.logSoftmax(net.forward(layers, x)[2]), target);
    const grad = net.newGrad(model);
    net.backward(model, grad, net.forward(layers, x), target, relu);
    assert.ok(net.linear(x, model.w1, model.b1).some(v => v < 0 && v > -0.2));
    for (const [name, p] of Object.entries(model))
      p.forEach((v, i) => {
        p[i] = v + 1e-5;
        const above = loss();
        p[i] = v - 1e-5;
        const slope = (above - loss()) / 2e-5;
        p[i] = v;
        assert.ok(Math.abs(slope - grad[name][i]) < 1e-9, `${name} ${i}`);
      });
  });

test('backward adds, zero forgets, step moves against the gradient', () => {
  const model = small();
  const grad = net.newGrad(model);
  const again = () => net.backward(model, grad, net.forward(net.layersOf(model), x), target);
  again();
  const once = structuredClone(grad);
  again();
  for (const name of Object.keys(model)) {
    assert.ok(once[name].some(v => v !== 0));
    close(
      grad[name],
      once[name].map(v => 2 * v),
    );
  }
  const before = structuredClone(model);
  net.step(model, grad, 0.5);
  for (const [name, p] of Object.entries(model))
    close(
      p,
      before[name].map((v, i) => v - 0.5 * grad[name][i]),
    );
  net.zero(grad);
  assert.ok(Object.values(grad).every(g => g.every(v => v === 0)));
});

test('the generator is the Mersenne Twister: its published values, also the ten thousandth', () => {
  const values = net.generator(5489);
  assert.equal(values(), 3499211612);
  for (let i = 1; i < 9999; i++) values();
  assert.equal(values(), 4123659995); // as the C++ standard says
});

test('an order has every row once; weights fit their layer', () => {
  const order = net.randperm(7, net.generator(0));
  assert.deepEqual(Array.from(order), [4, 0, 5, 3, 2, 6, 1]); // as in chapter 03
  const {w1, b1, w2, b2} = net.newModel(1, 3);
  assert.deepEqual(
    [w1, b1, w2, b2].map(p => p.length),
    [2352, 3, 30, 10],
  );
  const within = (p, bound) => assert.ok(p.every(v => Math.abs(v) <= bound * (1 + 1e-7)));
  within(w1, 1 / 28);
  within(w2, 1 / Math.sqrt(3));
  assert.ok(Math.min(...w1) < -0.99 / 28 && Math.max(...w1) > 0.99 / 28);
});
