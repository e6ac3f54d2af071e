//! The floor under a durable answer: the same frames, answered after nothing but a group commit of the same sizes. One thread
//! reads and answers, one writes; no users, no rules, no store. What the real server takes beyond this is its own.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fs::OpenOptions;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::rc::Rc;
use std::sync::mpsc;

use proto::frame::{
    Ack, Bye, Caps, ClientFrame, FRAME_BYTES_MAX, KindCap, List, Preamble, Receiver, ResumeToken, State, Welcome,
};
use proto::{Chapter, MangaId, MergeKey, NodeId, SessionId, UserId, Version};
use tokio::io::AsyncWriteExt;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

/// Bytes of one record in the journal that this stands for.
pub const RECORD_BYTES: usize = 140;
/// Bytes of a commit's header.
const HEADER_BYTES: usize = 64;
/// Blocks are written whole.
const BLOCK_BYTES: usize = 4_096;
/// The file that is written round and round.
const FILE_BYTES: u64 = 1 << 30;
/// Updates without an answer, per connection.
const WINDOW: u32 = 4_096;

/// One group of records to be written.
struct Commit {
    records: usize,
}

/// Serves until the process is killed; prints its address first.
pub async fn serve(folder: &Path) -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let floor = Rc::new(Floor {
        gate: RefCell::default(),
        turn: Notify::new(),
        commits: RefCell::new(Some(writer(folder)?)),
        done: RefCell::new(None),
    });
    announce(listener.local_addr()?)?;
    tokio::task::spawn_local(Rc::clone(&floor).commit());
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::task::spawn_local(Rc::clone(&floor).converse(stream));
    }
}

fn announce(address: SocketAddr) -> io::Result<()> {
    use io::Write;
    let mut out = io::stdout();
    writeln!(out, "{address}")?;
    out.flush()
}

type Writing = (mpsc::Sender<Commit>, tokio::sync::mpsc::UnboundedReceiver<io::Result<()>>);

/// The writing thread: one O_DIRECT|O_DSYNC write per commit, over blocks that were written before.
fn writer(folder: &Path) -> io::Result<Writing> {
    let path = folder.join("floor.bin");
    let zeros = vec![0_u8; 1 << 20];
    let plain = OpenOptions::new().create(true).truncate(true).write(true).open(&path)?;
    for at in 0..FILE_BYTES / zeros.len() as u64 {
        plain.write_all_at(&zeros, at * zeros.len() as u64)?;
    }
    plain.sync_all()?;
    // O_DIRECT and O_DSYNC of Linux on every architecture that the harness runs on (fcntl.h of asm-generic).
    let file = OpenOptions::new().write(true).custom_flags(0o40_000 | 0o10_000).open(&path)?;
    let (ask, asked) = mpsc::channel::<Commit>();
    let (tell, told) = tokio::sync::mpsc::unbounded_channel();
    std::thread::Builder::new().name("floor-commit".into()).spawn(move || {
        let mut at = 0;
        let mut memory = vec![0_u8; (4 << 20) + BLOCK_BYTES];
        let start = memory.as_ptr().align_offset(BLOCK_BYTES);
        for Commit { records } in asked {
            let bytes = (HEADER_BYTES + records * RECORD_BYTES).next_multiple_of(BLOCK_BYTES).min(4 << 20);
            if at + bytes as u64 > FILE_BYTES {
                at = 0;
            }
            memory[start..start + 8].copy_from_slice(&at.to_le_bytes());
            let written = file.write_all_at(&memory[start..start + bytes], at);
            at += bytes as u64;
            if tell.send(written).is_err() {
                return;
            }
        }
    })?;
    Ok((ask, told))
}

/// Answers that wait for the disk.
struct Waiting {
    client: Rc<Client>,
    up_to_seq: u64,
    updates: usize,
}

struct Client {
    half: tokio::sync::Mutex<OwnedWriteHalf>,
}

struct Floor {
    gate: RefCell<VecDeque<Waiting>>,
    turn: Notify,
    commits: RefCell<Option<Writing>>,
    done: RefCell<Option<io::Error>>,
}

impl Floor {
    /// Whatever has gathered while the last write was under way is the next commit.
    async fn commit(self: Rc<Self>) {
        let writing = self.commits.borrow_mut().take();
        let Some((ask, mut told)) = writing else { return };
        loop {
            let gathered = std::mem::take(&mut *self.gate.borrow_mut());
            if gathered.is_empty() {
                self.turn.notified().await;
                continue;
            }
            let records = gathered.iter().map(|waiting| waiting.updates).sum();
            if ask.send(Commit { records }).is_err() {
                return;
            }
            match told.recv().await {
                Some(Ok(())) => {}
                Some(Err(error)) => return drop(self.done.replace(Some(error))),
                None => return,
            }
            for waiting in gathered {
                waiting.answer().await;
            }
        }
    }

    async fn converse(self: Rc<Self>, stream: TcpStream) {
        let (read, write) = stream.into_split();
        let client = Rc::new(Client { half: tokio::sync::Mutex::new(write) });
        let mut receiver = Receiver::new(Caps::frames_of(FRAME_BYTES_MAX));
        let mut out = Preamble::CURRENT.to_bytes().to_vec();
        let mut greeted = false;
        loop {
            let mut up_to = None;
            match take_in(&mut receiver, &mut greeted, &mut out, &mut up_to) {
                Ok(true) => {}
                Ok(false) | Err(()) => return,
            }
            if !out.is_empty() {
                if client.half.lock().await.write_all(&out).await.is_err() {
                    return;
                }
                out.clear();
            }
            if let Some((up_to_seq, updates)) = up_to {
                let waiting = Waiting { client: Rc::clone(&client), up_to_seq, updates };
                self.gate.borrow_mut().push_back(waiting);
                self.turn.notify_one();
            }
            if read.readable().await.is_err() {
                return;
            }
            match read.try_read(receiver.room(64 * 1024)) {
                Ok(0) => return,
                Ok(bytes) => receiver.filled(bytes),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    }
}

impl Waiting {
    async fn answer(self) {
        let mut out = Vec::with_capacity(128);
        let ack = Ack {
            up_to_seq: self.up_to_seq,
            manga: MangaId(1),
            key: MergeKey { generation: Version(1), chapter: Chapter::ZERO, version: Version(2), node: NodeId(1) },
            page: None,
            status: None,
            already: false,
            cumulative: self.updates > 1,
            ahead_of_catalogue: false,
            offers_completed: false,
        };
        ack.encode(&mut out);
        // A client that has gone needs no answer.
        let _ = self.client.half.lock().await.write_all(&out).await;
    }
}

/// Takes every whole frame: greets, answers reads with nothing, and counts updates. False at a goodbye.
fn take_in(
    receiver: &mut Receiver,
    greeted: &mut bool,
    out: &mut Vec<u8>,
    up_to: &mut Option<(u64, usize)>,
) -> Result<bool, ()> {
    if !*greeted {
        *greeted = receiver.preamble().map_err(drop)?.is_some();
        if !*greeted {
            return Ok(true);
        }
    }
    while let Some(raw) = receiver.next_frame().map_err(drop)? {
        let seq = raw.header.seq;
        match raw.from_client().map_err(drop)? {
            ClientFrame::Hello(_) => welcome(seq, out),
            ClientFrame::Get(_) => State { entries: List::Plain(&[]), last: true, snapshot: false }.encode(seq, out),
            ClientFrame::SetProgress(_) => {
                let updates = up_to.map_or(0, |(_, updates)| updates);
                *up_to = Some((seq, updates + 1));
            }
            ClientFrame::Bye(_) => {
                Bye::ORDINARY.encode(0, out);
                return Ok(false);
            }
            _ => {}
        }
    }
    Ok(true)
}

fn welcome(seq: u64, out: &mut Vec<u8>) {
    let caps = KindCap::all(&Caps::frames_of(FRAME_BYTES_MAX));
    let welcome = Welcome {
        session: SessionId::from_bytes([1; 16]),
        user: UserId::from_bytes([1; 16]),
        username: "floor",
        window: WINDOW,
        idle_timeout_ms: 300_000,
        last_seq: 0,
        server_name: "floor",
        server_version: "1",
        caps: List::Plain(&caps),
        resume: ResumeToken::NONE,
    };
    welcome.encode(seq, out).expect("a Welcome with a short name fits its cap");
}
