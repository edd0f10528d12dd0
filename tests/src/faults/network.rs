//! A network between nodes that loses, delays, reorders and cuts, without the kernel's help: every node lives in a
//! network namespace of its own, with one TUN device whose other end is held here.
//!
//! Each packet passes through one thread, which asks the rules what becomes of it. Nothing of it outlives the process: the
//! namespaces have no name, and the devices go with their handles.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

/// Packets that wait to be delivered; one more is lost, as in any queue.
const WAITING_MAX: usize = 20_000;

/// How soon the thread sees that it shall end.
const LOOK_UP_MS: i64 = 50;

const DEVICE: &str = "roll0";

/// Why there can be no such network on this machine.
#[derive(Debug, thiserror::Error)]
#[error("{what} (root and /dev/net/tun are needed)")]
pub struct Unavailable {
    what: String,
    #[source]
    source: io::Error,
}

fn unavailable(what: &str) -> impl FnOnce(rustix::io::Errno) -> Unavailable {
    move |error| Unavailable { what: what.to_owned(), source: error.into() }
}

/// Where one node lives.
#[derive(Clone, Debug)]
pub struct Seat {
    pub address: String,
    namespace: Arc<OwnedFd>,
}

impl Seat {
    /// Has a program run there.
    #[expect(unsafe_code, reason = "nothing but one system call runs between fork and exec")]
    pub fn enter(&self, command: &mut Command) {
        let namespace = self.namespace.clone();
        let enter = move || Ok(move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?);
        // SAFETY: setns is async-signal-safe and touches no memory of the parent.
        unsafe { command.pre_exec(enter) };
    }
}

/// What becomes of the packets from one place to another.
#[derive(Clone, Copy, Debug, Default)]
pub struct Link {
    pub cut: bool,
    pub lost_percent: u32,
    /// Each packet takes a time of its own up to this, so that later ones overtake earlier ones.
    pub delay_ms_max: u64,
}

/// What happened to packets so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub delivered: u64,
    pub cut: u64,
    pub lost: u64,
    pub delayed: u64,
    pub overtaken: u64,
}

#[derive(Debug)]
struct Rules {
    /// By the number of the place a packet comes from, then of the one it goes to.
    links: Vec<Vec<Link>>,
    counts: Counts,
}

/// The last number of the clients' address; nodes count from 1.
const CLIENTS: usize = 200;

#[derive(Debug)]
pub struct Network {
    pub seats: Vec<Seat>,
    rules: Arc<Mutex<Rules>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Network {
    /// Seats for nodes, and the calling thread, with all that it starts from now on, at the place of the clients. To be
    /// called before there is a runtime.
    ///
    /// # Errors
    /// When the machine gives no namespaces or devices.
    ///
    /// # Panics
    /// When it gives them and they cannot be set up.
    pub fn new(count: usize, seed: u64) -> Result<Self, Unavailable> {
        let (mut seats, mut devices) = (Vec::new(), Vec::new());
        for number in 1..=count {
            let (device, seat) = std::thread::spawn(move || settle(number)).join().expect("no panic")?;
            seats.push(seat);
            devices.push(device);
        }
        devices.push(settle(CLIENTS)?.0);
        let links = vec![vec![Link::default(); count + 1]; count + 1];
        let rules = Arc::new(Mutex::new(Rules { links, counts: Counts::default() }));
        let stop = Arc::new(AtomicBool::new(false));
        let switch = Switch {
            devices,
            rules: rules.clone(),
            random: SmallRng::seed_from_u64(seed),
            waiting: BinaryHeap::new(),
            taken: 0,
        };
        let stopped = stop.clone();
        let thread = Some(std::thread::spawn(move || switch.run(&stopped)));
        Ok(Self { seats, rules, stop, thread })
    }

    fn rules(&self) -> MutexGuard<'_, Rules> {
        self.rules.lock().expect("nobody panics with the rules")
    }

    /// Sets what becomes of packets between nodes, for each pair of different ones, in each direction.
    pub fn set(&self, link: impl Fn(usize, usize) -> Link) {
        let mut rules = self.rules();
        let count = self.seats.len();
        for from in 0..count {
            for to in (0..count).filter(|to| *to != from) {
                rules.links[from][to] = link(from, to);
            }
        }
    }

    pub fn heal(&self) {
        self.set(|_, _| Link::default());
    }

    pub fn counts(&self) -> Counts {
        self.rules().counts
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Gives the calling thread a namespace, and that a device.
#[expect(unsafe_code, reason = "a namespace of one's own takes nothing from anybody")]
fn settle(number: usize) -> Result<(OwnedFd, Seat), Unavailable> {
    // SAFETY: the open files of the thread stay shared with the others; only where new sockets live changes.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.map_err(unavailable("no network namespace to be had"))?;
    let device = open_device().map_err(unavailable("no TUN device to be had"))?;
    let own = rustix::fs::open("/proc/thread-self/ns/net", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    let seat = Seat {
        address: format!("10.77.0.{number}"),
        namespace: Arc::new(own.map_err(unavailable("no handle on the namespace"))?),
    };
    let own_address = format!("{}/24", seat.address);
    for arguments in [
        ["link", "set", "lo", "up"].as_slice(),
        &["address", "add", &own_address, "dev", DEVICE],
        &["link", "set", DEVICE, "up"],
    ] {
        let status = Command::new("ip").args(arguments).status();
        let status = status.map_err(|source| Unavailable { what: "no `ip` (iproute2)".to_owned(), source })?;
        assert!(status.success(), "ip {arguments:?}: {status}");
    }
    Ok((device, seat))
}

/// `struct ifreq` as TUNSETIFF takes it.
#[repr(C)]
struct Request {
    name: [u8; 16],
    flags: i16,
    rest: [u8; 22],
}

#[expect(unsafe_code, reason = "no safe wrapper knows this one control of a TUN device")]
fn open_device() -> rustix::io::Result<OwnedFd> {
    const TUNSETIFF: rustix::ioctl::Opcode = 0x4004_54ca;
    const IFF_TUN_NO_PI: i16 = 0x1001;
    let device = rustix::fs::open("/dev/net/tun", OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?;
    let mut request = Request { name: [0; 16], flags: IFF_TUN_NO_PI, rest: [0; 22] };
    request.name[..DEVICE.len()].copy_from_slice(DEVICE.as_bytes());
    // SAFETY: TUNSETIFF reads and writes one `struct ifreq`, whose size and layout `Request` has.
    unsafe {
        let set = rustix::ioctl::Setter::<TUNSETIFF, Request>::new(request);
        rustix::ioctl::ioctl(&device, set)?;
    }
    Ok(device)
}

/// A packet on its way: when it is due, in which order it came, where it goes.
type Waiting = Reverse<(Instant, u64, usize, Vec<u8>)>;

/// What becomes of a packet.
enum Fate {
    Gone,
    Now,
    Later(Duration),
}

struct Switch {
    /// Of the nodes, and at last of the clients.
    devices: Vec<OwnedFd>,
    rules: Arc<Mutex<Rules>>,
    random: SmallRng,
    waiting: BinaryHeap<Waiting>,
    taken: u64,
}

impl Switch {
    fn run(mut self, stop: &AtomicBool) {
        let mut buffer = vec![0; 1 << 16];
        while !stop.load(Ordering::Relaxed) {
            for from in self.readable() {
                while let Ok(length) = rustix::io::read(&self.devices[from], &mut buffer) {
                    self.take(from, &buffer[..length]);
                }
            }
            self.deliver_due();
        }
    }

    /// Waits until there is something to do; answers whose packets can be read.
    fn readable(&self) -> Vec<usize> {
        let look_up = Duration::from_millis(LOOK_UP_MS as u64);
        let due = self.waiting.peek().map_or(look_up, |Reverse((due, ..))| due.duration_since(Instant::now()));
        let nanos = due.min(look_up).subsec_nanos();
        let timeout = Timespec { tv_sec: 0, tv_nsec: nanos.into() };
        let mut asked: Vec<PollFd<'_>> =
            self.devices.iter().map(|device| PollFd::from_borrowed_fd(device.as_fd(), PollFlags::IN)).collect();
        if poll(&mut asked, Some(&timeout)).is_err() {
            return Vec::new();
        }
        (0..asked.len()).filter(|place| asked[*place].revents().contains(PollFlags::IN)).collect()
    }

    fn take(&mut self, from: usize, packet: &[u8]) {
        let Some(to) = self.destination(packet) else { return };
        self.taken += 1;
        match self.fate(from, to) {
            Fate::Gone => {}
            Fate::Now => send(self.devices[to].as_fd(), packet),
            Fate::Later(delay) => {
                self.waiting.push(Reverse((Instant::now() + delay, self.taken, to, packet.to_vec())));
            }
        }
    }

    fn fate(&mut self, from: usize, to: usize) -> Fate {
        let mut rules = self.rules.lock().expect("nobody panics with the rules");
        let link = rules.links[from][to];
        let counts = &mut rules.counts;
        if link.cut {
            counts.cut += 1;
            return Fate::Gone;
        }
        if self.random.random_range(0..100) < link.lost_percent || self.waiting.len() >= WAITING_MAX {
            counts.lost += 1;
            return Fate::Gone;
        }
        if link.delay_ms_max == 0 {
            counts.delivered += 1;
            return Fate::Now;
        }
        counts.delayed += 1;
        Fate::Later(Duration::from_micros(self.random.random_range(0..=link.delay_ms_max * 1_000)))
    }

    fn deliver_due(&mut self) {
        let now = Instant::now();
        while self.waiting.peek().is_some_and(|Reverse((due, ..))| *due <= now) {
            let Some(Reverse((_, number, to, packet))) = self.waiting.pop() else { break };
            send(self.devices[to].as_fd(), &packet);
            // The oldest that still waits came before this one.
            let overtook = self.waiting.iter().take(64).any(|Reverse((_, other, ..))| *other < number);
            let mut rules = self.rules.lock().expect("nobody panics with the rules");
            rules.counts.delivered += 1;
            rules.counts.overtaken += u64::from(overtook);
        }
    }

    /// By the last number of an IPv4 packet's destination; there is nobody else here.
    fn destination(&self, packet: &[u8]) -> Option<usize> {
        if packet.len() < 20 || packet[0] >> 4 != 4 || packet[16..19] != [10, 77, 0] {
            return None;
        }
        match usize::from(packet[19]) {
            CLIENTS => Some(self.devices.len() - 1),
            number if (1..self.devices.len()).contains(&number) => Some(number - 1),
            _ => None,
        }
    }
}

/// A device whose queue is full loses the packet, as a wire does.
fn send(device: BorrowedFd<'_>, packet: &[u8]) {
    let _ = rustix::io::write(device, packet);
}
