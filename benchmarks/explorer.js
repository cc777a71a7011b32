// Times the programs of a model in node: reads {engine, model, calls, seconds} from the
// input, and prints the milliseconds of each run, by the name of the program.
"use strict";

const {engine, model, calls, seconds} = JSON.parse(require("fs").readFileSync(0, "utf8"));
(0, eval)(engine);
const opened = Engine.open(model);
const taken = {};
for (const [name, inputs] of Object.entries(calls)) {
  opened.run(name, inputs); // It is compiled.
  taken[name] = [];
  const end = performance.now() + 1000 * seconds;
  while (performance.now() < end) {
    const start = performance.now();
    opened.run(name, inputs);
    taken[name].push(performance.now() - start);
  }
}
process.stdout.write(JSON.stringify(taken));
