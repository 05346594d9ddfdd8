// Uploads FILE to the gateway at URL with Uppy in headless Chromium, from a page of another origin:
//   node uppy.cjs URL KEY FILE PAGE_PORT whole|pause|reload|parallel
// Prints one line of JSON: the upload's `url`, the `fileId` that the page could read, and what Uppy `sent`, each
// PATCH with its offset; what it sent up to the pause or the reload is in `before`. `patches` counts both.
// NODE_PATH names the folder that has `uppy` and `playwright-core`.
const fs = require('node:fs')
const http = require('node:http')
const path = require('node:path')
const { chromium } = require('playwright-core')

const [url, key, file, port, mode] = process.argv.slice(2)
const LAUNCH_MS = 60_000
const UPLOAD_MS = 120_000
// Bytes a second that the page may send, so that there is a half at which to pause or to leave.
const SLOW = { offline: false, latency: 0, downloadThroughput: -1, uploadThroughput: 4 << 20 }
const FLAGS = ['--disable-gpu', '--disable-background-networking', '--disable-component-update', '--disable-sync']
const BUNDLE = path.join(path.dirname(require.resolve('uppy/package.json')), 'dist/uppy.min.js')
const HTML = `<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,"><input type="file">
<script src="/uppy.js"></script><script>(${inPage})(${JSON.stringify({ url, key, mode })})</script>`

// Runs in the page, which is then asked for `uppy`, `sent`, `half` and `done`.
function inPage({ url, key, mode }) {
  const sent = []
  let fileId = null
  const uppy = new Uppy.Uppy({ autoProceed: true }).use(Uppy.Tus, {
    endpoint: `${url}/tus/`,
    headers: { Authorization: `Bearer ${key}` },
    chunkSize: 1 << 20,
    parallelUploads: mode === 'parallel' ? 3 : 1,
    onBeforeRequest: (request) => {
      sent.push(`${request.getMethod()} ${request.getHeader('Upload-Offset') ?? ''}`.trim())
    },
    onAfterResponse: (_, response) => {
      fileId = response.getHeader('Gridgate-File-Id') ?? null
    },
  })
  // More than half, so not at a chunk's end: a PATCH is under way.
  const half = new Promise((resolve) => {
    uppy.on('upload-progress', (_, { bytesUploaded, bytesTotal }) => bytesUploaded * 2 > bytesTotal && resolve())
  })
  const done = new Promise((resolve, reject) => {
    uppy.on('upload-success', (_, { uploadURL }) => resolve({ url: uploadURL, fileId }))
    uppy.on('upload-error', (_, error) => reject(error))
  })
  document.querySelector('input').addEventListener('change', ({ target: { files: [data] } }) => {
    uppy.addFile({ name: data.name, type: data.type, data })
  })
  Object.assign(window, { uppy, sent, half, done })
}

async function upload(browser) {
  const page = await browser.newPage()
  page.on('console', (message) => console.error(message.text()))
  await page.goto(`http://127.0.0.1:${port}/`)
  let before = []
  if (mode === 'pause' || mode === 'reload') {
    await (await page.context().newCDPSession(page)).send('Network.emulateNetworkConditions', SLOW)
  }
  await page.setInputFiles('input', file)
  if (mode === 'pause') {
    before = await page.evaluate(() => half.then(() => (uppy.pauseAll(), sent.splice(0))))
    await page.waitForTimeout(500)
    if (await page.evaluate(() => sent.length)) throw new Error('requests were sent during the pause')
    await page.evaluate(() => uppy.resumeAll())
  } else if (mode === 'reload') {
    before = await page.evaluate(() => half.then(() => sent))
    await page.reload()
    await page.setInputFiles('input', file)
  }
  const answer = await page.evaluate(() => done.then((end) => ({ ...end, sent })))
  return { ...answer, before, patches: `${before},${answer.sent}`.match(/PATCH/g)?.length ?? 0 }
}

async function main() {
  if (!['whole', 'pause', 'reload', 'parallel'].includes(mode)) throw new Error(`no mode ${mode}`)
  const server = http.createServer((request, response) => {
    const [type, body] = request.url === '/uppy.js' ? ['javascript', fs.readFileSync(BUNDLE)] : ['html', HTML]
    response.setHeader('Content-Type', `text/${type}`).end(body)
  })
  await new Promise((resolve, reject) => server.on('error', reject).listen(Number(port), '127.0.0.1', resolve))
  // A launch has a new profile of its own, and removes it.
  const options = { executablePath: '/usr/bin/chromium', chromiumSandbox: false, args: FLAGS, timeout: LAUNCH_MS }
  const browser = await chromium.launch(options)
  setTimeout(() => browser.close({ reason: `not done in ${UPLOAD_MS} ms` }), UPLOAD_MS).unref()
  const answer = await upload(browser).finally(() => browser.close())
  server.close()
  console.log(JSON.stringify(answer))
}

main().catch((error) => { console.error(error); process.exit(1); })
