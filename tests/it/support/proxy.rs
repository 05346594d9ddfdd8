//! A mongod behind a TCP proxy that loses, delays and breaks what passes between it and its clients.
//!
//! Messages of the wire protocol pass as wholes: 16 bytes of length, request id, id answered and kind,
//! then the rest (MongoDB wire protocol, `OP_MSG`).

use std::collections::HashSet;
use std::io;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::own_mongod::{OwnMongod, free_port};

/// What becomes of messages.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Network {
    Sound,
    /// Nothing passes, and nobody is told. What was sent meanwhile comes later.
    Silent,
    /// Every message comes so much later.
    Slow(Duration),
    /// Connections are reset, old and new ones.
    Broken,
}

/// A replica set of one that its clients reach through the proxy only.
pub struct ProxiedMongod {
    pub own: OwnMongod,
    shared: Arc<Shared>,
    _accepting: AbortOnDropHandle<()>,
}

struct Shared {
    network: watch::Sender<Network>,
    lost: Mutex<Lost>,
}

/// Answers that do not arrive, though their commands do.
#[derive(Default)]
struct Lost {
    command: &'static str,
    /// How many of them yet.
    times: usize,
    /// Requests whose answers are still to come.
    requests: HashSet<[u8; 4]>,
}

impl ProxiedMongod {
    pub async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let (member, port) = (listener.local_addr().unwrap().port(), free_port());
        let shared = Arc::new(Shared { network: watch::Sender::new(Network::Sound), lost: Mutex::default() });
        let accepting = tokio::spawn(accept(listener, port, Arc::clone(&shared)));
        let accepting = AbortOnDropHandle::new(accepting);
        Self { own: OwnMongod::fallible_behind(member, port).await, shared, _accepting: accepting }
    }

    /// Changes the network between the mongod and its clients.
    pub fn set(&self, network: Network) {
        self.shared.network.send_replace(network);
    }

    /// Loses the answers to the next `times` commands of this name.
    pub fn lose_answers(&self, command: &'static str, times: usize) {
        *self.shared.lost.lock().unwrap() = Lost { command, times, requests: HashSet::new() };
    }

    /// Whether commands are still to come whose answers are to be lost. The answer to one that came
    /// reaches nobody, even if its client gives up before there is one.
    pub fn is_losing(&self) -> bool {
        self.shared.lost.lock().unwrap().times > 0
    }
}

async fn accept(listener: TcpListener, port: u16, shared: Arc<Shared>) {
    loop {
        let (client, _) = listener.accept().await.unwrap();
        tokio::spawn(connect(client, port, Arc::clone(&shared)));
    }
}

async fn connect(client: TcpStream, port: u16, shared: Arc<Shared>) -> io::Result<()> {
    client.set_zero_linger()?;
    client.set_nodelay(true)?;
    pass(&shared).await?;
    let server = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    server.set_nodelay(true)?;
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let mut network = shared.network.subscribe();
    tokio::select! {
        _ = network.wait_for(|network| *network == Network::Broken) => Ok(()),
        ended = pump(from_client, to_server, &shared, Shared::note_request) => ended,
        ended = pump(from_server, to_client, &shared, Shared::is_arriving) => ended,
    }
}

/// Carries messages one way until an end closes; those that `arrives` refuses are lost.
async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    shared: &Shared,
    arrives: impl Fn(&Shared, &[u8]) -> bool,
) -> io::Result<()> {
    loop {
        let mut message = vec![0; 16];
        from.read_exact(&mut message).await?;
        let len = u32::from_le_bytes(message[..4].try_into().unwrap()) as usize;
        message.resize(len, 0);
        from.read_exact(&mut message[16..]).await?;
        pass(shared).await?;
        if arrives(shared, &message) {
            to.write_all(&message).await?;
        }
    }
}

/// Waits as long as the network makes a message wait.
async fn pass(shared: &Shared) -> io::Result<()> {
    let mut network = shared.network.subscribe();
    let now = *network.wait_for(|network| *network != Network::Silent).await.map_err(io::Error::other)?;
    match now {
        Network::Slow(delay) => tokio::time::sleep(delay).await,
        Network::Broken => return Err(io::ErrorKind::ConnectionReset.into()),
        Network::Sound | Network::Silent => {}
    }
    Ok(())
}

impl Shared {
    /// Notes a command whose answer is to be lost; the command itself arrives.
    fn note_request(&self, message: &[u8]) -> bool {
        let mut lost = self.lost.lock().unwrap();
        // Flags, the kind of the section, the document's length, the first element's type; then its name.
        let name = message.get(26..).unwrap_or_default();
        let is_meant = name.strip_prefix(lost.command.as_bytes()).is_some_and(|rest| rest.starts_with(b"\0"));
        if is_meant && lost.times > 0 {
            lost.times -= 1;
            lost.requests.insert(message[4..8].try_into().unwrap());
        }
        true
    }

    fn is_arriving(&self, message: &[u8]) -> bool {
        !self.lost.lock().unwrap().requests.remove(&message[8..12])
    }
}
