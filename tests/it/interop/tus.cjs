// tus-js-client against a gateway: node tus.cjs URL KEY FILE MODE
// MODE: whole (in chunks; stopped, and gone on with anew), creation (with the first bytes), terminate
const { readFileSync } = require('node:fs')
const tus = require('tus-js-client')

const [url, key, file, mode] = process.argv.slice(2)
const content = readFileSync(file)
const base = {
  endpoint: `${url}/tus/`,
  headers: { Authorization: `Bearer ${key}` },
  metadata: { filename: 'tus.bin', filetype: 'application/x-noise', relativePath: 'null' },
  chunkSize: 700_000,
  retryDelays: [0, 100, 300],
}

// Uploads; stops by itself after `stopAt` bytes. Resolves with the address and the id of the file, if it is one.
function upload(options, stopAt) {
  return new Promise((resolve, reject) => {
    let fileId
    const upload = new tus.Upload(content, {
      ...base,
      ...options,
      onAfterResponse: (_, response) => { fileId = response.getHeader('Gridgate-File-Id') || fileId },
      onError: reject,
      onSuccess: () => resolve({ url: upload.url, fileId }),
      onProgress: (sent) => {
        if (stopAt && sent >= stopAt) {
          upload.abort().then(() => resolve({ url: upload.url, fileId }), reject)
        }
      },
    })
    upload.start()
  })
}

async function main() {
  if (mode === 'whole') {
    const first = await upload({}, content.length / 2)
    if (first.fileId) throw new Error('it was not stopped')
    return upload({ uploadUrl: first.url })
  }
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
