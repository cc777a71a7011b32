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
  // Functions of (out, x, xStep, y, yStep, z, zStep).
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

  function move(options, [x, fill], [out]) {
    const places = placesOf(options);
    return () => {
      const outside = fill ? fill[0] : 0;
      for (let i = 0; i < out.length; i++) {
        out[i] = places[i] < 0 ? outside : x[places[i]];
      }
    };
  }

  // Sums rows of y, each times a number of x. Zeros are skipped: those of relu, of
  // padding and of dilation are many.
  function addRows(out, first, n, x, from, k, y, start) {
    for (let j = 0; j < k; j++) {
      const factor = x[from + j];
      if (factor === 0) continue;
      const row = start + j * n;
      for (let c = 0; c < n; c++) out[first + c] += factor * y[row + c];
    }
  }

  function dot(x, from, k, y, start, step) {
    let sum = 0;
    for (let j = 0; j < k; j++) sum += x[from + j] * y[start + j * step];
    return sum;
  }

  function matmul({batch, m, k, n}, [x, y], [out]) {
    return () => {
      out.fill(0);
      for (let row = 0; row < batch * m; row++) {
        const start = Math.floor(row / m) * k * n;
        if (n > 4) addRows(out, row * n, n, x, row * k, k, y, start);
        else for (let c = 0; c < n; c++) out[row * n + c] = dot(x, row * k, k, y, start + c, n);
      }
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

  // Copies windows of x; the numbers of ``indices`` say where each begins.
  function take({batch, window, last, strides, fills}, [x, indices], [out]) {
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
          out[i * offsets.length + j] = inside || !fills ? x[start + offsets[j]] : NaN;
        }
      }
    };
  }

  // Runs a body for each row of its last inputs, with its own results as the next state.
  function scan({length, reverse, fixed, carried, body}, inputs, outputs, weights) {
    const inner = compile(body, weights);
    const state = inner.inputs.slice(fixed, fixed + carried);
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
        const next = inner.outputs.slice(0, carried).map((own) => own.slice());
        state.forEach((own, i) => own.set(next[i]));
      }
      state.forEach((own, i) => outputs[i].set(own));
    };
  }

  const kernels = {move, matmul, reduce, cumulate, concatenate, take, scan};

  function elementwise(loop, inputs, [out]) {
    const steps = inputs.map((x) => (x.length === 1 ? 0 : 1));
    const [x, y, z] = inputs;
    return () => loop(out, x, steps[0], y, steps[1], z, steps[2]);
  }

  // --- programs ---

  // Returns {inputs, outputs, run}: arrays to write and to read, and what lies between.
  function compile(program, weights) {
    const {sizes, operations} = program;
    const inputs = program.inputs.map((place) => place[1] ?? place);
    const outputs = program.outputs.map((place) => place[1] ?? place);
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
    const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
    let start = 0;
    return sizes.map(([size, width]) => {
      const own = bytes.slice(start, (start += size * width)).buffer;
      return width === 4 ? new Float32Array(own) : fromHalves(new Uint16Array(own));
    });
  }

  function fromHalves(halves) {
    return Float32Array.from(halves, (half) => {
      const sign = half & 0x8000 ? -1 : 1;
      const exponent = (half >> 10) & 31;
      const fraction = half & 1023;
      if (!exponent) return sign * fraction * 2 ** -24;
      return sign * (1024 + fraction) * 2 ** (exponent - 25);
    });
  }

  function open(description) {
    const weights = read(description.weights);
    const compiled = new Map();

    function run(name, given) {
      const program = description.programs[name];
      if (!program) throw new Error(`The model has no program ${name}.`);
      if (!compiled.has(name)) compiled.set(name, compile(program, weights));
      const {inputs, outputs, run} = compiled.get(name);
      program.inputs.forEach(([input, , index], i) => {
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
        program.outputs.map(([output], i) => [output, outputs[i].slice()]),
      );
    }

    return {run};
  }

  return {open};
})();
