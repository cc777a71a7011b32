// Executes the programs of a model: lists of operations on arrays of float32.
//
//     const model = Engine.open(description);
//     const {image} = model.run("decode", {z: [0.5, -1]});
//
// An operation is [kind, places of inputs, places of outputs, options]; operations.py
// says which kinds there are. A program is compiled when it first runs: each operation
// becomes a function without arguments whose arrays are allocated once.
"use strict";

globalThis.Engine = (() => {
  // Functions of (out, x, xMask, y, yMask, z, zMask).
  const loops = {
    /* One loop for each formula, by ``programs.engine``. */
  };

  // --- formulas that JavaScript does not have ---

  const word = new Uint32Array(1);
  const wordAsFloat = new Float32Array(word.buffer);

  function bfloat16(x) {
    wordAsFloat[0] = x;
    if (x === x) word[0] = (word[0] + 0x7fff + ((word[0] >>> 16) & 1)) & 0xffff0000;
    return wordAsFloat[0];
  }

  function roundToEven(x) {
    const low = Math.floor(x);
    if (x - low !== 0.5) return Math.round(x);
    return low % 2 === 0 ? low : low + 1;
  }

  // The upper tail of the standard normal is s exp(p(2 s - 1) - t^2 / 2) at t >= 0, with
  // s = 1 / (1 + rate t) and the polynomial p, lowest power first.
  const normalTail = {rate: 0, coefficients: []};

  function erfc(x) {
    const s = 1 / (1 + normalTail.rate * Math.SQRT2 * Math.abs(x));
    let power = 0;
    for (let i = normalTail.coefficients.length - 1; i >= 0; i--) {
      power = power * (2 * s - 1) + normalTail.coefficients[i];
    }
    const tail = 2 * s * Math.exp(power - x * x);
    return x < 0 ? 2 - tail : tail;
  }

  // log |gamma(x)|, by Stirling's series from 8 on; the recurrence leads there.
  function lgamma(x) {
    if (Math.abs(x) === Infinity || (x <= 0 && x % 1 === 0)) return Infinity;
    if (x < 0.5) return Math.log(Math.PI / Math.abs(Math.sin(Math.PI * x))) - lgamma(1 - x);
    let factors = 1;
    while (x < 8) factors *= x++;
    const y = 1 / (x * x);
    const series = (1 / 12 - y * (1 / 360 - y * (1 / 1260 - y / 1680))) / x;
    return (x - 0.5) * Math.log(x) - x + Math.log(2 * Math.PI) / 2 + series - Math.log(factors);
  }

  // --- kernels: of options, inputs and outputs, they return a function to run ---

  // Returns the place in an array for each place of a move's output; -1 outside it.
  function placesOf({shape, axes}) {
    const found = new Int32Array(shape.reduce((a, b) => a * b, 1));
    const at = new Array(shape.length).fill(0);
    for (let i = 0; i < found.length; i++) {
      for (const [size, stride, base, dilation, steps] of axes) {
        let coordinate = base;
        for (let d = 0; d < at.length; d++) coordinate += steps[d] * at[d];
        const inside = coordinate >= 0 && coordinate < size * dilation;
        if (!inside || coordinate % dilation) {
          found[i] = -1;
          break;
        }
        found[i] += (coordinate / dilation) * stride;
      }
      for (let d = at.length - 1; d >= 0 && ++at[d] === shape[d]; d--) at[d] = 0;
    }
    return found;
  }

  // Returns how many neighbours of a move's output are always neighbours in its input.
  function runOf({shape, axes}) {
    const last = shape.length - 1;
    const moving = axes.filter(([, , , , steps]) => steps[last]);
    if (moving.length !== 1) return 1;
    const [size, stride, base, dilation, steps] = moving[0];
    const ends = steps.map((step, d) => step * (shape[d] - 1));
    const least = ends.reduce((sum, end) => sum + Math.min(end, 0), base);
    const most = ends.reduce((sum, end) => sum + Math.max(end, 0), base);
    const isInside = least >= 0 && most < size;
    return isInside && stride === 1 && dilation === 1 && steps[last] === 1 ? shape[last] : 1;
  }

  function move({shape, axes}, [x, fill], [out]) {
    const run = runOf({shape, axes});
    const places = placesOf({shape: run > 1 ? shape.slice(0, -1) : shape, axes});
    return () => {
      const outside = fill ? fill[0] : 0;
      for (let i = 0; i < places.length; i++) {
        const from = places[i];
        for (let j = 0; j < run; j++) out[i * run + j] = from < 0 ? outside : x[from + j];
      }
    };
  }

  // Products skip the zeros of x: those of relu, of padding and of dilation are many.
  // The sums of eight columns at a time stay out of memory.
  function matmul({batch, m, k, n}, [x, y], [out]) {
    const starts = new Int32Array(k);
    const factors = new Float64Array(k);
    const inEights = n - (n % 8);

    function multiplyRow(row, start) {
      const from = row * k;
      const to = row * n;
      let count = 0;
      for (let j = 0; j < k && inEights; j++) {
        if (x[from + j] === 0) continue;
        factors[count] = x[from + j];
        starts[count++] = start + j * n;
      }
      for (let c = 0; c < inEights; c += 8) {
        let s0 = 0, s1 = 0, s2 = 0, s3 = 0, s4 = 0, s5 = 0, s6 = 0, s7 = 0;
        for (let j = 0; j < count; j++) {
          const factor = factors[j];
          const at = starts[j] + c;
          s0 += factor * y[at];
          s1 += factor * y[at + 1];
          s2 += factor * y[at + 2];
          s3 += factor * y[at + 3];
          s4 += factor * y[at + 4];
          s5 += factor * y[at + 5];
          s6 += factor * y[at + 6];
          s7 += factor * y[at + 7];
        }
        out[to + c] = s0;
        out[to + c + 1] = s1;
        out[to + c + 2] = s2;
        out[to + c + 3] = s3;
        out[to + c + 4] = s4;
        out[to + c + 5] = s5;
        out[to + c + 6] = s6;
        out[to + c + 7] = s7;
      }
      for (let c = inEights; c < n; c++) {
        let sum = 0;
        for (let j = 0; j < k; j++) sum += x[from + j] * y[start + j * n + c];
        out[to + c] = sum;
      }
    }

    return () => {
      for (let row = 0; row < batch * m; row++) multiplyRow(row, Math.floor(row / m) * k * n);
    };
  }

  const folds = {
    sum: (a, b) => a + b,
    product: (a, b) => a * b,
    max: Math.max,
    min: Math.min,
  };

  function reduce({by}, [x], [out]) {
    const count = x.length / out.length;
    const compare = {argmax: (a, b) => a > b, argmin: (a, b) => a < b}[by];
    if (compare) {
      return () => {
        for (let i = 0; i < out.length; i++) {
          let best = 0;
          for (let j = 1; j < count; j++) {
            if (compare(x[i * count + j], x[i * count + best])) best = j;
          }
          out[i] = best;
        }
      };
    }
    const fold = folds[by];
    return () => {
      for (let i = 0; i < out.length; i++) {
        let found = x[i * count];
        for (let j = 1; j < count; j++) found = fold(found, x[i * count + j]);
        out[i] = found;
      }
    };
  }

  function cumulate({by, count, stride, reverse}, [x], [out]) {
    const fold = folds[by];
    return () => {
      for (let start = 0; start < x.length; start += count * stride) {
        for (let column = 0; column < stride; column++) {
          let found;
          for (let j = 0; j < count; j++) {
            const place = start + column + (reverse ? count - 1 - j : j) * stride;
            found = j ? fold(found, x[place]) : x[place];
            out[place] = found;
          }
        }
      }
    };
  }

  function concatenate({rows}, inputs, [out]) {
    return () => {
      let place = 0;
      for (let row = 0; row < rows; row++) {
        for (const x of inputs) {
          const width = x.length / rows;
          for (let j = row * width; j < (row + 1) * width; j++) out[place++] = x[j];
        }
      }
    };
  }

  // Copies windows of x; the numbers of ``indices`` say where each begins. One that is not
  // inside x is filled, or begins at the nearest place if there is no fill.
  function take({batch, window, last, strides}, [x, indices, fill], [out]) {
    const bases = placesOf(batch);
    const offsets = placesOf(window);
    const count = last.length;
    return () => {
      for (let i = 0; i < bases.length; i++) {
        let start = bases[i];
        let inside = true;
        for (let j = 0; j < count; j++) {
          const index = indices[i * count + j];
          const clipped = Math.min(Math.max(index, 0), last[j]);
          inside = inside && clipped === index;
          start += clipped * strides[j];
        }
        for (let j = 0; j < offsets.length; j++) {
          out[i * offsets.length + j] = inside || !fill ? x[start + offsets[j]] : fill[0];
        }
      }
    };
  }

  // Runs a body for each row of its last inputs, with its own results as the next state.
  function scan({length, reverse, fixed, carried, body}, inputs, outputs, weights) {
    const inner = compile(body, weights);
    const state = inner.inputs.slice(fixed, fixed + carried);
    const next = state.map((own) => own.slice());
    const rows = inner.inputs.slice(fixed + carried);
    return () => {
      inner.inputs.slice(0, fixed + carried).forEach((own, i) => own.set(inputs[i]));
      for (let step = 0; step < length; step++) {
        const at = reverse ? length - 1 - step : step;
        rows.forEach((row, i) => {
          const from = inputs[fixed + carried + i];
          row.set(from.subarray(at * row.length, (at + 1) * row.length));
        });
        inner.run();
        inner.outputs.slice(carried).forEach((row, i) => {
          outputs[carried + i].set(row, at * row.length);
        });
        // An output may be a state itself: all are read before one is written.
        next.forEach((own, i) => own.set(inner.outputs[i]));
        state.forEach((own, i) => own.set(next[i]));
      }
      state.forEach((own, i) => outputs[i].set(own));
    };
  }

  const kernels = {move, matmul, reduce, cumulate, concatenate, take, scan};

  // An input of one number is read at place i & 0, the others at i & -1.
  function elementwise(loop, inputs, [out]) {
    const masks = inputs.map((x) => (x.length === 1 ? 0 : -1));
    const [x, y, z] = inputs;
    return () => loop(out, x, masks[0], y, masks[1], z, masks[2]);
  }

  // --- programs ---

  // Returns {inputs, outputs, run}: arrays to write and to read, and the function between.
  function compile(program, weights) {
    const {sizes, operations, inputs, outputs} = program;
    const arrays = new Array(sizes.length);
    const fixed = new Set();
    for (const [place, index] of program.constants) {
      arrays[place] = weights[index];
      fixed.add(place);
    }
    for (const place of inputs) arrays[place] = new Float32Array(sizes[place]);
    const lastUse = new Map();
    operations.forEach(([, places], i) => places.forEach((place) => lastUse.set(place, i)));
    for (const place of [...inputs, ...outputs]) lastUse.set(place, Infinity);
    const free = new Map(); // arrays that are not read any more, by size
    const steps = [];
    operations.forEach(([kind, from, to, options], i) => {
      const isFixed = from.every((place) => fixed.has(place));
      for (const place of to) {
        const unused = isFixed ? undefined : free.get(sizes[place])?.pop();
        arrays[place] = unused ?? new Float32Array(sizes[place]);
      }
      const [own, made] = [from, to].map((places) => places.map((p) => arrays[p]));
      const step = loops[kind]
        ? elementwise(loops[kind], own, made)
        : kernels[kind](options, own, made, weights);
      if (isFixed) {
        step();
        to.forEach((place) => fixed.add(place));
        return;
      }
      steps.push(step);
      for (const place of new Set(from)) {
        if (lastUse.get(place) !== i || fixed.has(place)) continue;
        const size = sizes[place];
        free.set(size, [...(free.get(size) ?? []), arrays[place]]);
      }
    });
    return {
      inputs: inputs.map((place) => arrays[place]),
      outputs: outputs.map((place) => arrays[place]),
      run: () => steps.forEach((step) => step()),
    };
  }

  // Returns the arrays of the table of weights, which are float32 or half precision.
  function read({sizes, content}) {
    const letters = atob(content);
    const bytes = new Uint8Array(letters.length);
    for (let i = 0; i < bytes.length; i++) bytes[i] = letters.charCodeAt(i);
    let start = 0;
    return sizes.map(([size, width]) => {
      const own = bytes.slice(start, (start += size * width)).buffer;
      return width === 4 ? new Float32Array(own) : fromHalves(new Uint16Array(own));
    });
  }

  function fromHalves(halves) {
    const found = new Float32Array(halves.length);
    for (let i = 0; i < halves.length; i++) {
      const exponent = (halves[i] >> 10) & 31;
      const fraction = (exponent ? 1024 : 0) + (halves[i] & 1023);
      found[i] = (halves[i] >> 15 ? -fraction : fraction) * 2 ** (Math.max(exponent, 1) - 25);
    }
    return found;
  }

  function open(description) {
    const weights = read(description.weights);
    const compiled = new Map();

    function run(name, given) {
      const program = description.programs[name];
      if (!program) throw new Error(`The model has no program ${name}.`);
      if (!compiled.has(name)) compiled.set(name, compile(program, weights));
      const {inputs, outputs, run} = compiled.get(name);
      program.arguments.forEach(([input, index], i) => {
        const value = given[input] ?? weights[index];
        const numbers = typeof value === "number" ? [value] : value;
        if (numbers?.length !== inputs[i].length) {
          throw new Error(
            `The input ${input} of ${name} has ${numbers?.length ?? "no"} numbers, not ` +
              `${inputs[i].length}.`,
          );
        }
        inputs[i].set(numbers);
      });
      run();
      return Object.fromEntries(
        program.results.map((result, i) => [result, outputs[i].slice()]),
      );
    }

    return {run};
  }

  return {open};
})();
