//! HTTP by hand, for what a well-behaved client never sends.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Longer than any answer may take here.
const PATIENCE: Duration = Duration::from_secs(20);

/// One connection on which requests are written byte by byte.
pub struct Wire {
    stream: TcpStream,
    read: Vec<u8>,
}

/// An answer as it came.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

impl Wire {
    /// Connects to a `http://` address.
    pub async fn connect(url: &str) -> Self {
        let address = url.strip_prefix("http://").unwrap();
        Self { stream: TcpStream::connect(address).await.unwrap(), read: Vec::new() }
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
    }

    /// Says that nothing more comes, and goes on listening.
    pub async fn send_no_more(&mut self) {
        self.stream.shutdown().await.unwrap();
    }

    /// Breaks off what it was sending, and waits until the peer is done with what came. A connection that is just
    /// dropped may have bytes on their way, and who asks for them then is taken for the client that comes again.
    pub async fn break_off(mut self) {
        self.send_no_more().await;
        while self.fill().await {}
    }

    /// The next answer without its body, which is left to come.
    pub async fn head(&mut self) -> Answer {
        self.read_head().await.expect("an answer")
    }

    /// This many bytes, or those that came before the peer closed.
    pub async fn body(&mut self, len: usize) -> Vec<u8> {
        while self.read.len() < len && self.fill().await {}
        self.take(len.min(self.read.len()))
    }

    fn take(&mut self, len: usize) -> Vec<u8> {
        let rest = self.read.split_off(len);
        std::mem::replace(&mut self.read, rest)
    }

    /// The next answer with a body of an announced length; none when the peer closed instead.
    pub async fn answer(&mut self) -> Option<Answer> {
        let mut answer = self.read_head().await?;
        let len = answer.header("content-length").map_or(0, |len| len.parse().unwrap());
        answer.body = self.body(len).await;
        Some(answer)
    }

    async fn read_head(&mut self) -> Option<Answer> {
        let head_len = loop {
            if let Some(at) = self.read.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            if !self.fill().await {
                return None;
            }
        };
        let head = String::from_utf8(self.take(head_len)).unwrap();
        let mut lines = head.trim_end().split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers: Vec<(String, String)> = lines
            .map(|line| line.split_once(':').unwrap())
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        Some(Answer { status, headers, body: Vec::new() })
    }

    /// Sends a piece again and again until something comes back, or as often as it is told.
    pub async fn drip(&mut self, piece: &[u8], pause: Duration, most: usize) {
        for _ in 0..most {
            if self.stream.write_all(piece).await.is_err() {
                return;
            }
            tokio::select! {
                _ = self.stream.readable() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Whether the peer closes without another byte.
    pub async fn is_closed(&mut self) -> bool {
        self.read.is_empty() && !self.fill().await
    }

    async fn fill(&mut self) -> bool {
        let mut piece = [0; 16 << 10];
        let read = tokio::time::timeout(PATIENCE, self.stream.read(&mut piece)).await.expect("an answer in time");
        let len = read.unwrap_or(0);
        self.read.extend_from_slice(&piece[..len]);
        len > 0
    }
}
