//! A client of HTTP/1.1 that costs next to nothing: one connection, one request at a time.
//!
//! It shares the machine with what it measures; a general client would be a part of the result.

use std::net::SocketAddr;
use std::ops::Range;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::Outcome;

const BUFFER_LEN: usize = 256 << 10;
/// How much of an answer is shown that is no success.
const SHOWN: usize = 1000;
/// Bodies up to this length go out together with their head.
const SMALL: usize = 64 << 10;
/// No server here needs this long for anything.
const PATIENCE: Duration = Duration::from_secs(300);

/// An answer whose body was read to its end.
pub struct Answer {
    pub body: Vec<u8>,
    /// From the last byte of the request.
    pub after_request: Duration,
}

/// A body that was read and dropped.
pub struct Received {
    pub len: usize,
    /// From the request to the first byte of the body, and to its last.
    pub first_byte: Duration,
    pub whole: Duration,
}

/// How an answer tells where its body ends.
enum Framing {
    Length(usize),
    Chunks,
}

pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    /// What has come and was not looked at yet.
    come: Range<usize>,
}

impl Connection {
    pub async fn open(address: SocketAddr) -> Outcome<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: vec![0; BUFFER_LEN], come: 0..0 })
    }

    /// Sends a request and reads the answer. `line` is method and path.
    pub async fn send(&mut self, line: &str, headers: &str, body: &[Bytes]) -> Outcome<Answer> {
        limited(async {
            let len: usize = body.iter().map(Bytes::len).sum();
            let mut head = request(line, &format!("{headers}content-length: {len}\r\n"));
            if len <= SMALL {
                body.iter().for_each(|piece| head.extend_from_slice(piece));
                self.stream.write_all(&head).await?;
            } else {
                self.stream.write_all(&head).await?;
                for piece in body {
                    self.stream.write_all(piece).await?;
                }
            }
            let sent = Instant::now();
            let Framing::Length(len) = self.read_head(line).await? else {
                return Err(format!("{line}: an answer without a length").into());
            };
            let mut body = self.buffer[self.come.clone()].to_vec();
            let come = body.len();
            body.resize(len, 0);
            self.stream.read_exact(&mut body[come..]).await?;
            Ok(Answer { body, after_request: sent.elapsed() })
        })
        .await
    }

    /// Asks for a body and drops it as it comes.
    pub async fn receive(&mut self, path: &str, headers: &str) -> Outcome<Received> {
        limited(async {
            let asked = Instant::now();
            let framing = self.begin(path, headers).await?;
            let first_byte = asked.elapsed();
            let len = match framing {
                Framing::Length(len) => self.skip(len).await.map(|()| len)?,
                Framing::Chunks => self.skip_chunks().await?,
            };
            Ok(Received { len, first_byte, whole: asked.elapsed() })
        })
        .await
    }

    /// Asks for a body and reads how it begins, no more.
    pub async fn pause(&mut self, path: &str, headers: &str) -> Outcome<()> {
        limited(self.begin(path, headers)).await.map(drop)
    }

    async fn begin(&mut self, path: &str, headers: &str) -> Outcome<Framing> {
        let line = format!("GET {path}");
        self.stream.write_all(&request(&line, headers)).await?;
        let framing = self.read_head(&line).await?;
        if self.come.is_empty() && !matches!(framing, Framing::Length(0)) {
            self.read_more().await?;
        }
        Ok(framing)
    }

    async fn read_head(&mut self, line: &str) -> Outcome<Framing> {
        self.come = 0..0;
        loop {
            self.read_more().await.map_err(|error| format!("{line}: {error}"))?;
            let come = &self.buffer[self.come.clone()];
            if let Some(end) = come.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                let text = String::from_utf8_lossy(&come[..end]);
                let framing = framing(&text)
                    .ok_or_else(|| format!("{line}: {}", String::from_utf8_lossy(&come[..come.len().min(SHOWN)])))?;
                self.come.start += end + 4;
                return Ok(framing);
            }
        }
    }

    /// Waits for bytes and puts them after those that are there.
    async fn read_more(&mut self) -> Outcome<()> {
        self.buffer.copy_within(self.come.clone(), 0);
        self.come = 0..self.come.len();
        match self.stream.read(&mut self.buffer[self.come.end..]).await? {
            0 => Err("an answer ended early".into()),
            read => {
                self.come.end += read;
                Ok(())
            }
        }
    }

    async fn skip(&mut self, mut len: usize) -> Outcome<()> {
        loop {
            let here = len.min(self.come.len());
            self.come.start += here;
            len -= here;
            if len == 0 {
                return Ok(());
            }
            self.read_more().await?;
        }
    }

    /// Skips chunks up to the empty one; gives the body's length.
    async fn skip_chunks(&mut self) -> Outcome<usize> {
        let mut whole = 0;
        loop {
            let come = &self.buffer[self.come.clone()];
            let Some(end) = come.windows(2).position(|bytes| bytes == b"\r\n") else {
                self.read_more().await?;
                continue;
            };
            let len = usize::from_str_radix(std::str::from_utf8(&come[..end])?, 16)?;
            self.skip(end + 2 + len + 2).await?;
            whole += len;
            if len == 0 {
                return Ok(whole);
            }
        }
    }
}

fn request(line: &str, headers: &str) -> Vec<u8> {
    format!("{line} HTTP/1.1\r\nhost: bench\r\n{headers}\r\n").into_bytes()
}

/// Nothing where the request failed, or the end of the body cannot be known.
fn framing(head: &str) -> Option<Framing> {
    let mut lines = head.lines();
    lines.next()?.split(' ').nth(1).filter(|status| status.starts_with('2'))?;
    lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        match name.to_ascii_lowercase().as_str() {
            "content-length" => value.trim().parse().ok().map(Framing::Length),
            "transfer-encoding" => Some(Framing::Chunks),
            _ => None,
        }
    })
}

async fn limited<T>(act: impl Future<Output = Outcome<T>>) -> Outcome<T> {
    tokio::time::timeout(PATIENCE, act).await.map_err(|_| "a server does not answer")?
}
