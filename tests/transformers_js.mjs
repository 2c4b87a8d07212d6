// Runs a model of a local folder under @huggingface/transformers on given pixel values.
//   node transformers_js.mjs PACKAGES FOLDER DTYPE INPUT.f32 SHAPE OUTPUT_FOLDER
import { createRequire } from "node:module";
import { readFileSync, writeFileSync } from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import { pathToFileURL } from "node:url";

const [packages, folder, dtype, input, shape, into] = process.argv.slice(2);
const found = createRequire(join(resolve(packages), "package.json")).resolve("@huggingface/transformers");
const { AutoModel, AutoProcessor, Tensor, env } = await import(pathToFileURL(found).href);
env.allowRemoteModels = false;
env.localModelPath = dirname(resolve(folder));

const name = basename(folder);
const processor = await AutoProcessor.from_pretrained(name);
const model = await AutoModel.from_pretrained(name, { dtype });
const bytes = readFileSync(input);
const values = new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength));
const outputs = await model({ pixel_values: new Tensor("float32", values, shape.split(",").map(Number)) });
const told = { processor: processor.image_processor.constructor.name, outputs: {} };
for (const [key, tensor] of Object.entries(outputs)) {
  writeFileSync(join(into, `${key}.f32`), Buffer.from(tensor.data.buffer, tensor.data.byteOffset, tensor.data.byteLength));
  told.outputs[key] = tensor.dims;
}
console.log(JSON.stringify(told));
