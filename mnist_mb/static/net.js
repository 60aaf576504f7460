// The network of chapter 03 in JavaScript: layers of weights, ReLUs between them, the loss, its
// gradients and the step. Whatever trains or reads in a page computes with these functions: figures
// and the pad have them in front of their own. A matrix is one typed array, row after row; how long
// its rows are follows from the others.

// Where a row of x is not 0: most pixels are, and what they are multiplied with can be left out
function nonzero(x, from, n) {
  const places = [];
  for (let k = 0; k < n; k++) if (x[from + k] !== 0) places.push(k);
  return places;
}

// x @ w.T + b
function linear(x, w, b) {
  const n = w.length / b.length;
  const out = new Float64Array((x.length / n) * b.length);
  for (let from = 0, o = 0; from < x.length; from += n) {
    const places = nonzero(x, from, n);
    for (let j = 0; j < b.length; j++, o++) {
      let sum = b[j];
      for (const k of places) sum += x[from + k] * w[j * n + k];
      out[o] = sum;
    }
  }
  return out;
}

// total += g.T @ x, for so many rows
function addProduct(total, g, x, rows) {
  const outputs = g.length / rows;
  const n = x.length / rows;
  for (let i = 0; i < rows; i++) {
    const places = nonzero(x, i * n, n);
    for (let j = 0; j < outputs; j++) {
      const slope = g[i * outputs + j];
      if (slope !== 0) for (const k of places) total[j * n + k] += slope * x[i * n + k];
    }
  }
}

// total += g.sum(0)
function addSum(total, g) {
  for (let i = 0; i < g.length; i++) total[i % total.length] += g[i];
}

// g @ w
function times(g, w, outputs) {
  const n = w.length / outputs;
  const out = new Float64Array((g.length / outputs) * n);
  for (let i = 0; i < out.length; i++) {
    const row = Math.floor(i / n) * outputs;
    for (let j = 0; j < outputs; j++) out[i] += g[row + j] * w[j * n + (i % n)];
  }
  return out;
}

// The results of all layers for rows of pixels: x itself first, the logits last
function forward(layers, x) {
  const results = [x];
  for (const {weight, bias, relu} of layers) {
    const a = linear(results.at(-1), weight, bias);
    results.push(relu ? a.map(v => Math.max(v, 0)) : a);
  }
  return results;
}

// Those of the course's network, without its ReLU if it says so
const layersOf = ({w1, b1, w2, b2}, relu = true) => [
  {weight: w1, bias: b1, relu},
  {weight: w2, bias: b2},
];

// Of each row, shifted by its largest as in chapter 01
function logSoftmax(logits, classes = 10) {
  const out = new Float64Array(logits.length);
  for (let from = 0; from < logits.length; from += classes) {
    const row = logits.subarray(from, from + classes);
    const largest = row.reduce((a, v) => Math.max(a, v));
    const sum = row.reduce((a, v) => a + Math.exp(v - largest), 0);
    out.set(
      row.map(v => v - largest - Math.log(sum)),
      from,
    );
  }
  return out;
}

const softmax = (logits, classes) => logSoftmax(logits, classes).map(v => Math.exp(v));

// The mean of minus the log-probabilities of the right classes
function nll(logProbs, target, classes = 10) {
  return target.reduce((sum, c, i) => sum - logProbs[classes * i + c], 0) / target.length;
}

// The guesses: for each row, the class of its largest logit
function argmax(logits, classes = 10) {
  return Uint8Array.from({length: logits.length / classes}, (_, i) => {
    const row = logits.subarray(classes * i, classes * (i + 1));
    const largest = row.reduce((a, v) => Math.max(a, v));
    return row.findIndex(v => !(v < largest));
  });
}

// As loss.backward(): adds the gradients of the mean loss to those that are there
function backward(model, grad, [x, h, logits], target, relu = true) {
  const n = target.length;
  const gLogits = softmax(logits);
  target.forEach((c, i) => (gLogits[10 * i + c] -= 1));
  gLogits.forEach((g, i) => (gLogits[i] = g / n));
  addProduct(grad.w2, gLogits, h, n); // g_logits.T @ h
  addSum(grad.b2, gLogits); // g_logits.sum(0)
  const gH = times(gLogits, model.w2, 10); // g_logits @ w2
  const gA = relu ? gH.map((g, i) => (h[i] > 0 ? g : 0)) : gH; // g_h*(a > 0)
  addProduct(grad.w1, gA, x, n); // g_a.T @ x
  addSum(grad.b1, gA); // g_a.sum(0)
}

// p -= p.grad*lr
function step(model, grad, lr) {
  for (const [name, p] of Object.entries(model)) {
    const g = grad[name];
    for (let i = 0; i < p.length; i++) p[i] -= g[i] * lr;
  }
}

// p.grad.zero_()
function zero(grad) {
  for (const g of Object.values(grad)) g.fill(0);
}

// PyTorch's whole numbers below 2**32: the Mersenne Twister of Matsumoto and Nishimura (1998)
function generator(seed) {
  const state = new Uint32Array(624).fill(seed);
  for (let i = 1; i < 624; i++)
    state[i] = Math.imul(1812433253, state[i - 1] ^ (state[i - 1] >>> 30)) + i;
  let at = 0;
  return () => {
    const next = (at + 1) % 624;
    const joined = (state[at] & 0x80000000) | (state[next] & 0x7fffffff);
    state[at] = state[(at + 397) % 624] ^ (joined >>> 1) ^ (joined & 1 ? 0x9908b0df : 0);
    let v = state[at];
    at = next;
    v ^= v >>> 11;
    v ^= (v << 7) & 0x9d2c5680;
    v ^= (v << 15) & 0xefc60000;
    return (v ^ (v >>> 18)) >>> 0;
  };
}

// torch.randperm(n)
function randperm(n, random) {
  const order = Uint32Array.from({length: n}, (_, i) => i);
  for (let i = 0; i < n - 1; i++) {
    const j = i + (random() % (n - i));
    [order[i], order[j]] = [order[j], order[i]];
  }
  return order;
}

// Model(784, nh, 10) after torch.manual_seed(seed): nn.Linear draws uniformly, in float32
function newModel(seed, nh = 50) {
  const random = generator(seed);
  const draw = (count, n) => {
    const bound = Math.fround(1 / Math.sqrt(n));
    const share = () => (random() & 0xffffff) / 2 ** 24;
    return Float64Array.from({length: count}, () => Math.fround(share() * 2 * bound - bound));
  };
  return {w1: draw(nh * 784, 784), b1: draw(nh, 784), w2: draw(10 * nh, nh), b2: draw(10, nh)};
}

const newGrad = model =>
  Object.fromEntries(Object.entries(model).map(([name, p]) => [name, new Float64Array(p.length)]));
