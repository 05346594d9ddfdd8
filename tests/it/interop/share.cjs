// Opens links of shares in headless Chromium that runs no scripts, on the screen of a phone:
//   node share.cjs SHOTS < {"NAME": {"url": "…", "password": "…", "comment": "…"}, …}
// Prints one line of JSON: for each name what is seen there, the `complaints` of the browser, and the bytes (base64) of
// what the button saves. SHOTS is a folder for screenshots. NODE_PATH names the folder that has `playwright-core`.
const fs = require('node:fs')
const path = require('node:path')
const { chromium } = require('playwright-core')

const LIMIT_MS = 120_000
const FLAGS = ['--disable-gpu', '--disable-background-networking', '--disable-component-update', '--disable-sync']
const PHONE = { viewport: { width: 390, height: 740 }, acceptDownloads: true }

// Runs in the page.
function look() {
  const media = document.querySelector('img, video, audio, iframe')
  return {
    heading: document.querySelector('h1').innerText,
    text: document.querySelector('main').innerText,
    fits: document.documentElement.scrollWidth <= window.innerWidth,
    preview: media?.localName ?? null,
    shown: media?.naturalWidth ?? media?.duration ?? null,
    background: getComputedStyle(document.querySelector('main')).backgroundColor,
  }
}

async function visit(context, name, { url, password, comment, preview }, shots) {
  const page = await context.newPage()
  const complaints = []
  page.on('console', (message) => ['error', 'warning'].includes(message.type()) && complaints.push(message.text()))
  page.on('requestfailed', (request) => complaints.push(`${request.url()}: ${request.failure().errorText}`))
  const status = (await page.goto(url)).status()
  if (password) {
    await page.fill('input[type=password]', 'wrong')
    // The browser tells of the 403 on its own time.
    await Promise.all([page.waitForEvent('console', (message) => message.text().includes('403')), page.click('button')])
    complaints.splice(0)
    await page.fill('input[type=password]', password)
    await page.click('button')
  }
  if (comment) {
    await page.fill('textarea', comment)
    await page.click('button')
  }
  if (preview) await page.click('text=Show a preview')
  await page.waitForLoadState('networkidle')
  const seen = await page.evaluate(look)
  if (name === 'pdf') {
    const isViewer = () => page.frames().some((frame) => frame.url().startsWith('chrome-extension:'))
    for (let tries = 0; tries < 50 && !isViewer(); tries++) await page.waitForTimeout(100)
    seen.viewer = isViewer()
    await page.waitForTimeout(500)
  }
  const frame = page.frames()[1]
  seen.frame = frame && seen.preview === 'iframe' ? await frame.evaluate(() => document.body?.innerText).catch(String) : null
  await page.screenshot({ path: path.join(shots, `${name}.png`) })
  const button = page.locator('a.button')
  if (await button.count()) {
    const [download] = await Promise.all([page.waitForEvent('download'), button.click()])
    seen.saved = fs.readFileSync(await download.path()).toString('base64')
    seen.savedAs = download.suggestedFilename()
  }
  await page.close()
  return { status, complaints, ...seen }
}

async function main() {
  const [shots] = process.argv.slice(2)
  const pages = JSON.parse(fs.readFileSync(0, 'utf8'))
  const browser = await chromium.launch({ executablePath: '/usr/bin/chromium', chromiumSandbox: false, args: FLAGS })
  setTimeout(() => browser.close({ reason: `not done in ${LIMIT_MS} ms` }), LIMIT_MS).unref()
  const answers = {}
  try {
    for (const [name, page] of Object.entries(pages)) {
      // A visitor of its own, with cookies of its own.
      // The viewer for PDF is one of the browser's own, and written in script.
      const context = await browser.newContext({ ...PHONE, javaScriptEnabled: name === 'pdf' })
      answers[name] = await visit(context, name, page, shots)
      await context.close()
    }
  } finally {
    await browser.close()
  }
  console.log(JSON.stringify(answers))
}

main().catch((error) => { console.error(error); process.exit(1) })
