// A peer: BullMQ with its defaults on the same Redis.
//   node peer.js worker    takes jobs, 100 at once; says "ready"
//   node peer.js producer  adds as many jobs as each number on its input says, and answers with a line
const readline = require("node:readline");
const { Queue, Worker } = require("bullmq");

const url = new URL(process.env.ORCHESTRATOR_BROKER_URL);
const connection = {
  host: url.hostname,
  port: Number(url.port),
  password: decodeURIComponent(url.password) || undefined,
  maxRetriesPerRequest: null,
};
const QUEUE = "noops";

async function produce() {
  const queue = new Queue(QUEUE, { connection });
  for await (const line of readline.createInterface({ input: process.stdin })) {
    let left = Number(line);
    while (left > 0) {
      const size = Math.min(left, 1000);
      const jobs = Array.from({ length: size }, () => ({ name: "noop", data: {}, opts: { removeOnComplete: true } }));
      await queue.addBulk(jobs);
      left -= size;
    }
    console.log("added");
  }
  await queue.close();
}

async function work() {
  const worker = new Worker(QUEUE, async () => {}, { connection, concurrency: 100 });
  worker.on("error", (error) => console.error(error.message));
  process.on("SIGTERM", () => worker.close().then(() => process.exit(0)));
  await worker.waitUntilReady();
  console.log("ready");
}

(process.argv[2] === "producer" ? produce() : work()).catch((error) => {
  console.error(error);
  process.exit(1);
});
