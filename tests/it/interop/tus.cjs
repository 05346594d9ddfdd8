// tus-js-client against a gateway: node tus.cjs URL KEY FILE MODE [PARALLEL]
// MODE: stop (at half of it, remembering where in FILE.urls), resume (what was stopped, in a new process),
//       creation (with the first bytes), terminate (what was stopped)
// PARALLEL: so many uploads at once, which become one
const { readFileSync } = require('node:fs')
const tus = require('tus-js-client')

const [url, key, file, mode, parallel] = process.argv.slice(2)
const content = readFileSync(file)
const base = {
  endpoint: `${url}/tus/`,
  headers: { Authorization: `Bearer ${key}` },
  metadata: { filename: 'tus.bin', filetype: 'application/x-noise', relativePath: 'null' },
  chunkSize: 700_000,
  retryDelays: [0, 100, 300],
  parallelUploads: Number(parallel || 1),
  urlStorage: new tus.FileUrlStorage(`${file}.urls`),
  removeFingerprintOnSuccess: true,
}

// Uploads; stops by itself after `stopAt` bytes. Resolves with the address and the id of the file, if it is one.
async function upload(options, stopAt, isResumed) {
  let patches = 0
  const done = await new Promise((resolve, reject) => {
    let fileId
    const upload = new tus.Upload(content, {
      ...base,
      ...options,
      onAfterResponse: (request, response) => {
        if (request.getMethod() === 'PATCH') patches += 1
        fileId = response.getHeader('Gridgate-File-Id') || fileId
      },
      onError: reject,
      onSuccess: () => resolve({ url: upload.url, fileId }),
      onProgress: (sent) => {
        if (stopAt && sent >= stopAt) {
          upload.abort().then(() => resolve({ url: upload.url, fileId }), reject)
        }
      },
    })
    const begin = async () => {
      if (isResumed) {
        const [previous] = await upload.findPreviousUploads()
        if (!previous) throw new Error('nothing is remembered')
        upload.resumeFromPreviousUpload(previous)
      }
      upload.start()
    }
    begin().catch(reject)
  })
  return { ...done, patches }
}

async function main() {
  if (mode === 'stop') {
    const stopped = await upload({}, content.length / 2)
    if (stopped.fileId) throw new Error('it was not stopped')
    return stopped
  }
  if (mode === 'resume') return upload({}, undefined, true)
  if (mode === 'creation') return upload({ uploadDataDuringCreation: true })
  if (mode === 'terminate') {
    const stopped = await upload({}, content.length / 2)
    await tus.Upload.terminate(stopped.url, base)
    return stopped
  }
  throw new Error(`no mode ${mode}`)
}

main().then(
  (done) => console.log(JSON.stringify(done)),
  (error) => { console.error(error); process.exit(1) },
)
