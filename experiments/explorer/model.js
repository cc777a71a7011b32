// The models of the page, which Engine runs, and the test images that they share.

class Points {
  constructor({count = 0, image, binary, label = null, names = []} = {}, size, levels) {
    Object.assign(this, {count, labels: label, names});
    if (count) this.images = rows(bytes(image), size).map(k => Float32Array.from(k, x => x / (levels - 1)));
    if (binary) {
      const packed = bytes(binary); // Eight pixels in a byte, the first one highest.
      const bits = Float32Array.from({length: count * size}, (_, i) => (packed[i >> 3] >> (7 - i % 8)) & 1);
      this.binary = rows(bits, size);
    }
  }

  labelOf(n) {
    return this.labels?.[n] ?? null;
  }
}

class Model {
  constructor(facts, points) {
    Object.assign(this, {facts, points, image: facts.image, classes: facts.classes});
    const several = facts.latents.length > 1;
    this.names = facts.latents.flatMap(({name, size}) =>
      Array.from({length: size}, (_, i) => several ? `${name}: z${i + 1}` : `z${i + 1}`));
    this.size = this.names.length;
    this.encoded = Array(points.count).fill(null);
    if (facts.mean) rows(floats(facts.mean), this.size).forEach((mean, n) => { this.encoded[n] = {mean}; });
  }

  get isBinary() {
    return this.facts.view === 'binary';
  }

  get density() {
    return this.classes ? 'p(x|z, y)' : 'p(x|z)';
  }

  has(program) {
    return program in this.facts.programs;
  }

  // Why the model lacks a program, as a sentence.
  why(program) {
    const lacks = {decode: 'No images', encode: 'No encoding, and no regions of q(z)', bound: 'The page computes no ELBO'}[program];
    return `${lacks}: ${this.facts.missing?.[program] ?? 'the page does not hold it'}.`;
  }

  // Whether walks through z make sense: in a chain of latents they only blend pixels.
  get hasPlane() {
    return this.has('decode') && !this.facts.is_chain;
  }

  // Runs a program; y is the class, if the model has classes.
  run(program, inputs, y) {
    this.engine ??= Engine.open(this.facts);
    return this.engine.run(program, this.classes ? {...inputs, class: y ?? 0} : inputs);
  }

  decode(z, y) {
    return this.run('decode', {z}, y).image;
  }

  // z with the layers below one at their means.
  below(layer, z, y) {
    return this.has(`below ${layer}`) ? this.run(`below ${layer}`, {z}, y).z : z;
  }

  // The class that a label of the test images is, if the model knows it.
  classOf(label) {
    return this.facts.class_of?.[label] ?? null;
  }

  layerOf(latent) {
    let end = 0;
    return this.facts.latents.findIndex(({size}) => latent < (end += size));
  }

  // The image as the model sees it: for a model of binary images, black and white
  // pixels, each drawn with its intensity as the probability of white.
  seen({pixels, point}) {
    if (!this.isBinary) return pixels;
    if (point !== null) return this.points.binary[point];
    const numbers = uniform(0, pixels.length);
    return pixels.map((value, i) => Number(numbers[i] < value));
  }

  encode(image, y) {
    if (this.has('encode')) return this.run('encode', {image: this.seen(image)}, y);
    return this.encoded[image.point] ?? null;
  }

  // Encodes the next test image that is not yet encoded; false if there is none.
  encodeNext() {
    const point = this.has('encode') ? this.encoded.indexOf(null) : -1;
    if (point < 0) return false;
    const image = {pixels: this.points.images[point], point};
    this.encoded[point] = this.encode(image, this.classOf(this.points.labelOf(point)));
    return true;
  }

  get draws() {
    return rows(floats(this.facts.prior_samples), this.size);
  }

  // q(z) of the test images on a plane: a Gaussian of each.
  posteriors(plane) {
    return this.encoded.filter(q => q?.sd).map(({mean, sd}) => plane.marginal(mean, sd));
  }

  // p(z) on a plane: one Gaussian, or one around each stored draw.
  prior(plane) {
    const around = (z, sd) => plane.marginal(z, new Float32Array(this.size).fill(sd));
    if (this.facts.has_standard_prior) return [around(new Float32Array(this.size), 1)];
    if (!this.facts.prior_samples) return [];
    return this.draws.map((z, _, draws) => around(z, draws.length ** (-1 / 6)));
  }

  inUnit(nats) {
    const {name, per_nat: factor} = this.facts.unit;
    return `${fixed(nats * factor, name === 'nats' ? 2 : 3)} ${name}`;
  }
}
