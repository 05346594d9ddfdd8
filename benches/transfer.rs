//! `cargo bench`: the gateway beside the raw database and the driver's own GridFS streams, all in one
//! interleaved run on one mongod, so that the ratios survive a noisy machine.
//!
//! Prints a table of medians and one JSON line a measurement. `--rounds N`, `--mib N` and `--large-mib N`
//! change the defaults of 5 rounds of 256 MiB and one file of 1,024 MiB.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{AsyncReadExt, AsyncWriteExt, StreamExt, TryStreamExt, stream};
use gridgate::mongod::{Mongod, MongodSettings, OnExit};
use mongodb::bson::{Binary, RawDocumentBuf, doc, oid::ObjectId, rawdoc, spec::BinarySubtype};
use mongodb::options::WriteConcern;
use mongodb::{Client, Database, IndexModel};

const CHUNK_LEN: usize = 2 << 20;
const BATCH: usize = 4;
const IN_FLIGHT: usize = 2;
const PIECE_LEN: usize = 256 << 10;
const POOL_LEN: usize = 61 << 20;
const ADMIN_KEY: &str = "gg_admin_for-the-benchmark-only";
const MASTER_KEY: &str = "bench:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const MIB: f64 = 1_048_576.0;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Outcome<()> {
    let argument = |name: &str, default: usize| {
        let mut arguments = std::env::args().skip_while(|argument| argument != name);
        arguments.nth(1).and_then(|value| value.parse().ok()).unwrap_or(default)
    };
    let (rounds, mib, large_mib) = (argument("--rounds", 5), argument("--mib", 256), argument("--large-mib", 1024));
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(run(rounds, mib << 20, large_mib << 20))
}

async fn run(rounds: usize, len: usize, large_len: usize) -> Outcome<()> {
    let folder = tempfile::Builder::new().prefix("gridgate-bench-").tempdir()?.keep();
    let settings = MongodSettings { cache_mib: 2048, oplog_mib: 1024 };
    let mongod = Mongod::start(&settings, &folder, OnExit::RemoveFiles).await?;
    let mongod_pid = std::fs::read_to_string(folder.join("mongo/mongod.pid"))?.trim().parse()?;
    let gateway = Gateway::start(mongod.uri())?;
    let database = Client::with_uri_str(mongod.uri()).await?.database("bench_raw");
    let mut bench = Bench { database, gateway, mongod_pid, pool: random_pool(), seed: 0, results: BTreeMap::new() };
    for _ in 0..rounds {
        bench.round(len).await?;
    }
    bench.large(large_len).await?;
    bench.print();
    drop(bench);
    mongod.stop().await?;
    Ok(())
}

struct Bench {
    database: Database,
    gateway: Gateway,
    mongod_pid: u32,
    pool: Bytes,
    seed: usize,
    results: BTreeMap<&'static str, Vec<Sample>>,
}

struct Sample {
    mib_per_sec: f64,
    gateway_cpu: f64,
    mongod_cpu: f64,
}

impl Bench {
    async fn round(&mut self, len: usize) -> Outcome<()> {
        let raw = self.measure("1 raw insert", len, async |bench, body| bench.raw_insert(body).await).await?;
        let peer =
            self.measure("2 driver GridFS upload", len, async |bench, body| bench.driver_upload(body).await).await?;
        let plain = self
            .measure("3 gateway upload plain", len, async |bench, body| bench.upload("encrypt=false", body).await)
            .await?;
        let sealed =
            self.measure("4 gateway upload encrypted", len, async |bench, body| bench.upload("", body).await).await?;
        self.measure("5 raw find", len, async |bench, _| bench.raw_find(raw).await).await?;
        self.measure("6 driver GridFS download", len, async |bench, _| bench.driver_download(peer).await).await?;
        self.measure("7 gateway download plain", len, async |bench, _| bench.download(&plain, len).await).await?;
        self.measure("8 gateway download encrypted", len, async |bench, _| bench.download(&sealed, len).await).await?;
        self.database.drop().await?;
        Ok(())
    }

    /// One large file: cost in CPU and memory.
    async fn large(&mut self, len: usize) -> Outcome<()> {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let idle = self.gateway.reset_peak()?;
        let file =
            self.measure("9 large upload encrypted", len, async |bench, body| bench.upload("", body).await).await?;
        let up = self.gateway.peak_kib()? - idle;
        let idle = self.gateway.reset_peak()?;
        self.measure("9 large download encrypted", len, async |bench, _| bench.download(&file, len).await).await?;
        let down = self.gateway.peak_kib()? - idle;
        println!(
            "peak RSS over idle, {} MiB: upload {:.0} MiB, download {:.0} MiB",
            len >> 20,
            up / 1024.0,
            down / 1024.0
        );
        Ok(())
    }

    async fn measure<T>(
        &mut self,
        name: &'static str,
        len: usize,
        act: impl AsyncFnOnce(&Self, Vec<Bytes>) -> Outcome<T>,
    ) -> Outcome<T> {
        let body = self.body(len);
        let cpu =
            |bench: &Self| Ok::<_, std::io::Error>((cpu_secs(bench.gateway.child.id())?, cpu_secs(bench.mongod_pid)?));
        let (before, begun) = (cpu(self)?, Instant::now());
        let value = act(self, body).await?;
        let (secs, after) = (begun.elapsed().as_secs_f64(), cpu(self)?);
        let gib = len as f64 / MIB / 1024.0;
        let sample = Sample {
            mib_per_sec: len as f64 / MIB / secs,
            gateway_cpu: (after.0 - before.0) / gib,
            mongod_cpu: (after.1 - before.1) / gib,
        };
        println!(
            "{{\"what\":\"{}\",\"bytes\":{len},\"mibPerSec\":{:.1},\"gatewayCpuSecsPerGib\":{:.2},\"mongodCpuSecsPerGib\":{:.2}}}",
            &name[2..],
            sample.mib_per_sec,
            sample.gateway_cpu,
            sample.mongod_cpu
        );
        self.results.entry(name).or_default().push(sample);
        Ok(value)
    }

    /// Random pieces that no two files share the beginning of.
    fn body(&mut self, len: usize) -> Vec<Bytes> {
        self.seed += 1;
        let mut at = self.seed * 7_919_777 % POOL_LEN;
        let mut pieces = vec![Bytes::copy_from_slice(&ObjectId::new().bytes())];
        let mut left = len - 12;
        while left > 0 {
            let take = left.min(PIECE_LEN).min(POOL_LEN - at);
            pieces.push(self.pool.slice(at..at + take));
            at = (at + take) % POOL_LEN;
            left -= take;
        }
        pieces
    }

    /// The ceiling: the chunk documents a file of this length has, inserted by nobody but the driver.
    async fn raw_insert(&self, body: Vec<Bytes>) -> Outcome<ObjectId> {
        let chunks = self.database.collection::<RawDocumentBuf>("raw.chunks");
        let unique = mongodb::options::IndexOptions::builder().unique(true).build();
        chunks.create_index(IndexModel::builder().keys(doc! { "files_id": 1, "n": 1 }).options(unique).build()).await?;
        let id = ObjectId::new();
        let whole = body.concat();
        let batches: Vec<Vec<(usize, &[u8])>> =
            whole.chunks(CHUNK_LEN).enumerate().collect::<Vec<_>>().chunks(BATCH).map(<[_]>::to_vec).collect();
        stream::iter(batches)
            .map(|batch| {
                let documents: Vec<_> = batch
                    .iter()
                    .map(|(n, data)| {
                        let data = Binary { subtype: BinarySubtype::Generic, bytes: data.to_vec() };
                        rawdoc! { "_id": ObjectId::new(), "files_id": id, "n": *n as i32, "data": data }
                    })
                    .collect();
                let insert = chunks.insert_many(documents).ordered(false).write_concern(WriteConcern::majority());
                async move { insert.await.map(drop) }
            })
            .buffer_unordered(IN_FLIGHT)
            .try_collect::<()>()
            .await?;
        Ok(id)
    }

    async fn raw_find(&self, id: ObjectId) -> Outcome<()> {
        let chunks = self.database.collection::<RawDocumentBuf>("raw.chunks");
        let mut batches = chunks.find(doc! { "files_id": id }).sort(doc! { "n": 1 }).batch().await?;
        while batches.try_next().await?.is_some() {}
        Ok(())
    }

    #[expect(clippy::disallowed_methods, reason = "the driver's streams are the peer here")]
    async fn driver_upload(&self, body: Vec<Bytes>) -> Outcome<ObjectId> {
        let mut upload = self.database.gridfs_bucket(None).open_upload_stream("peer").await?;
        for piece in body {
            upload.write_all(&piece).await?;
        }
        upload.close().await?;
        Ok(upload.id().as_object_id().ok_or("the driver's id is an ObjectId")?)
    }

    #[expect(clippy::disallowed_methods, reason = "the driver's streams are the peer here")]
    async fn driver_download(&self, id: ObjectId) -> Outcome<()> {
        let mut download = self.database.gridfs_bucket(None).open_download_stream(id.into()).await?;
        let mut buffer = vec![0; PIECE_LEN];
        while download.read(&mut buffer).await? > 0 {}
        Ok(())
    }

    async fn upload(&self, query: &str, body: Vec<Bytes>) -> Outcome<String> {
        let len: usize = body.iter().map(Bytes::len).sum();
        let body = reqwest::Body::wrap_stream(stream::iter(body.into_iter().map(Ok::<_, std::io::Error>)));
        let request = self.gateway.request("POST", &format!("/v1/files?name=bench&{query}"));
        let response = request.header("content-length", len).body(body).send().await?.error_for_status()?;
        let file: serde_json::Value = serde_json::from_str(&response.text().await?)?;
        Ok(file["id"].as_str().ok_or("the answer has an id")?.to_owned())
    }

    async fn download(&self, id: &str, len: usize) -> Outcome<()> {
        let response =
            self.gateway.request("GET", &format!("/v1/files/{id}/content")).send().await?.error_for_status()?;
        let mut pieces = response.bytes_stream();
        let mut got = 0;
        while let Some(piece) = pieces.next().await {
            got += piece?.len();
        }
        if got == len { Ok(()) } else { Err(format!("{got} of {len} bytes came").into()) }
    }

    fn print(&self) {
        println!("\n| | MiB/s | of its ceiling | gateway CPU s/GiB | mongod CPU s/GiB |\n|---|---|---|---|---|");
        for (name, samples) in &self.results {
            let median_of = |field: fn(&Sample) -> f64| median(samples.iter().map(field).collect());
            let ceiling = match name.as_bytes()[0] {
                b'1'..=b'4' => self.results.get("1 raw insert"),
                b'5'..=b'8' => self.results.get("5 raw find"),
                _ => None,
            };
            let ratio = ceiling.map(|ceiling| {
                median(samples.iter().zip(ceiling).map(|(ours, raw)| ours.mib_per_sec / raw.mib_per_sec).collect())
            });
            println!(
                "| {} | {:.0} | {} | {:.2} | {:.2} |",
                &name[2..],
                median_of(|sample| sample.mib_per_sec),
                ratio.map_or("–".to_owned(), |ratio| format!("{ratio:.2}")),
                median_of(|sample| sample.gateway_cpu),
                median_of(|sample| sample.mongod_cpu)
            );
        }
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn random_pool() -> Bytes {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let words = (0..POOL_LEN / 8).flat_map(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.collect::<Vec<u8>>().into()
}

/// A gateway of its own process, so that its CPU and memory are its own.
struct Gateway {
    child: Child,
    url: String,
    client: reqwest::Client,
}

impl Gateway {
    fn start(uri: &str) -> Outcome<Self> {
        let mut child = Command::new(env!("CARGO_BIN_EXE_gridgate"))
            .env("GRIDGATE_MONGODB_URI", uri)
            .env("GRIDGATE_DATABASE", "bench_gateway")
            .env("GRIDGATE_MASTER_KEY", MASTER_KEY)
            .env("GRIDGATE_ADMIN_KEY", ADMIN_KEY)
            .env("GRIDGATE_LISTEN", "127.0.0.1:0")
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().ok_or("no stdout")?).read_line(&mut line)?;
        let url =
            line.trim().rsplit(' ').next().filter(|url| url.starts_with("http")).ok_or("the gateway did not start")?;
        let client = reqwest::Client::builder().no_proxy().build()?;
        Ok(Self { url: url.to_owned(), child, client })
    }

    fn request(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        let method = method.parse().expect("a method");
        self.client.request(method, format!("{}{path}", self.url)).bearer_auth(ADMIN_KEY)
    }

    /// Forgets the peak so far; gives the memory in use, in KiB.
    fn reset_peak(&self) -> std::io::Result<f64> {
        std::fs::write(format!("/proc/{}/clear_refs", self.child.id()), "5")?;
        self.memory("VmRSS:")
    }

    fn peak_kib(&self) -> std::io::Result<f64> {
        self.memory("VmHWM:")
    }

    fn memory(&self, field: &str) -> std::io::Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find(|line| line.starts_with(field)).unwrap_or_default();
        Ok(line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).unwrap_or(f64::NAN))
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // It is ours and holds nothing that is kept.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// User and system time of a process so far.
fn cpu_secs(pid: u32) -> std::io::Result<f64> {
    const TICKS_PER_SEC: f64 = 100.0;
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat"))?;
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks =
        |n: usize| after_name.split_whitespace().nth(n).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    Ok((ticks(11) + ticks(12)) / TICKS_PER_SEC)
}
