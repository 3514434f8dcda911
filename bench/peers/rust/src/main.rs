//! tokio's broadcast channel and crossbeam's bounded channels: `peer tokio|crossbeam`. Answers the
//! lines that round.h describes. A receiver has a thread of its own. tokio overwrites the oldest and
//! cannot wait; crossbeam's senders wait, or lose the newest.

use std::io::BufRead;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

const BUFFER_COUNT: usize = 1024;
const BURST_COUNT: usize = 32;
const PUBLISHER_COUNT_MAX: usize = 16;
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;
const PROCESS_CLOCK: i32 = 2;
const THREAD_CPU_CLOCK: i32 = 3;
const MONOTONIC_CLOCK: i32 = 1;

type Event = [u64; 8];

#[repr(C)]
struct Timespec {
    seconds: i64,
    nanoseconds: i64,
}

extern "C" {
    fn clock_gettime(clock: i32, now: *mut Timespec) -> i32;
}

fn clock_ns(clock: i32) -> u64 {
    let mut now = Timespec { seconds: 0, nanoseconds: 0 };
    // It writes the struct, which has the layout of a 64-bit Linux.
    unsafe { clock_gettime(clock, &mut now) };
    now.seconds as u64 * 1_000_000_000 + now.nanoseconds as u64
}

/// What reading the clock of the thread's processor time adds to a burst: the median of some.
fn clock_cost_ns() -> u64 {
    const TRIALS: usize = 64;
    let cost = |_| {
        let before = clock_ns(THREAD_CPU_CLOCK);
        clock_ns(THREAD_CPU_CLOCK) - before
    };
    let mut costs: Vec<u64> = (0..TRIALS).map(cost).collect();
    costs.sort_unstable();
    costs[TRIALS / 2]
}

#[derive(Clone)]
struct Round {
    lossless: bool,
    timed: bool,
    publishers: usize,
    readers: usize,
    seconds: f64,
    rate: f64,
}

fn event(number: u64, stamp: u64) -> Event {
    let mut event = [number, stamp, 0, 0, 0, 0, 0, 0];
    for (i, word) in event.iter_mut().enumerate().skip(2) {
        *word = number.wrapping_mul(MULTIPLIER).wrapping_add(i as u64);
    }
    event
}

struct Reader {
    lossless: bool,
    timed: bool,
    last: [u64; PUBLISHER_COUNT_MAX],
    delivered: u64,
    wrong: u64,
    samples: Vec<u32>,
}

impl Reader {
    fn new(round: &Round) -> Self {
        let mut last = [0; PUBLISHER_COUNT_MAX];
        for (i, number) in last.iter_mut().enumerate() {
            *number = (i as u64) << 48;
        }
        let samples = Vec::with_capacity(if round.timed { 1 << 20 } else { 0 });
        Reader { lossless: round.lossless, timed: round.timed, last, delivered: 0, wrong: 0, samples }
    }

    fn take(&mut self, event: &Event) {
        let number = event[0];
        let last = &mut self.last[(number >> 48) as usize % PUBLISHER_COUNT_MAX];
        let mut wrong = false;
        for (i, word) in event.iter().enumerate().skip(2) {
            wrong |= *word != number.wrapping_mul(MULTIPLIER).wrapping_add(i as u64);
        }
        wrong |= if self.lossless { number != *last + 1 } else { number <= *last };
        if self.timed {
            self.samples.push((clock_ns(MONOTONIC_CLOCK) - event[1]) as u32);
        } else {
            wrong |= event[1] != number;
        }
        *last = number;
        self.delivered += 1;
        self.wrong += wrong as u64;
    }
}

struct Publisher {
    index: u64,
    published: u64,
    cpu_ns: u64,
}

impl Publisher {
    fn next(&mut self, timed: bool) -> Event {
        self.published += 1;
        let number = self.index << 48 | self.published;
        event(number, if timed { clock_ns(MONOTONIC_CLOCK) } else { number })
    }

    /// Events that are ready, so that the processor time is that of publishing alone.
    fn burst(&mut self, events: &mut [Event], send: &impl Fn(Event)) {
        for event in events.iter_mut() {
            *event = self.next(false);
        }
        let before = clock_ns(THREAD_CPU_CLOCK);
        for event in events.iter() {
            send(*event);
        }
        self.cpu_ns += clock_ns(THREAD_CPU_CLOCK) - before;
    }

    fn run(&mut self, round: &Round, stop: &AtomicBool, send: &impl Fn(Event)) {
        let mut events = [[0; 8]; BURST_COUNT];
        let burst = if round.timed { 1 } else { BURST_COUNT };
        let clock_cost = clock_cost_ns();
        let mut due = clock_ns(MONOTONIC_CLOCK) as f64;
        while !stop.load(Ordering::Relaxed) {
            if round.timed || round.rate == 0.0 {
                send(self.next(round.timed));
            } else {
                self.burst(&mut events, send);
                self.cpu_ns = self.cpu_ns.wrapping_sub(clock_cost);
            }
            if round.rate > 0.0 {
                due += burst as f64 * 1e9 / round.rate;
                while (clock_ns(MONOTONIC_CLOCK) as f64) < due {}
            }
        }
    }
}

/// Runs publishers that send with `send`, a clone for each, against readers that `read` to the end.
fn run<S, R, T>(round: &Round, send: S, receivers: Vec<T>, read: R) -> String
where
    S: Fn(Event) + Clone + Send + 'static,
    R: Fn(T, &mut Reader) + Clone + Send + 'static,
    T: Send + 'static,
{
    let start = Arc::new(Barrier::new(round.publishers + round.readers + 1));
    let stop = Arc::new(AtomicBool::new(false));
    let reading: Vec<_> = receivers
        .into_iter()
        .map(|receiver| {
            let (round, read, start) = (round.clone(), read.clone(), start.clone());
            thread::spawn(move || {
                let mut reader = Reader::new(&round);
                start.wait();
                read(receiver, &mut reader);
                reader
            })
        })
        .collect();
    let publishing: Vec<_> = (0..round.publishers)
        .map(|index| {
            let (round, send, start, stop) = (round.clone(), send.clone(), start.clone(), stop.clone());
            thread::spawn(move || {
                let mut publisher = Publisher { index: index as u64, published: 0, cpu_ns: 0 };
                start.wait();
                publisher.run(&round, &stop, &send);
                publisher
            })
        })
        .collect();
    drop(send);
    start.wait();
    let before = Instant::now();
    let process_before = clock_ns(PROCESS_CLOCK);
    thread::sleep(Duration::from_secs_f64(round.seconds));
    stop.store(true, Ordering::Relaxed);
    let publishers: Vec<_> = publishing.into_iter().map(|p| p.join().unwrap()).collect();
    let readers: Vec<_> = reading.into_iter().map(|r| r.join().unwrap()).collect();
    let process_ns = clock_ns(PROCESS_CLOCK) - process_before;
    answer(round, &publishers, readers, before.elapsed().as_secs_f64(), process_ns)
}

fn answer(
    round: &Round,
    publishers: &[Publisher],
    readers: Vec<Reader>,
    seconds: f64,
    process_ns: u64,
) -> String {
    let published: u64 = publishers.iter().map(|p| p.published).sum();
    let cpu_ns = publishers.iter().fold(0u64, |sum, p| sum.wrapping_add(p.cpu_ns));
    let delivered: u64 = readers.iter().map(|r| r.delivered).sum();
    let wrong: u64 = readers.iter().map(|r| r.wrong).sum();
    let mut p50 = 0.0;
    for mut reader in readers {
        reader.samples.sort_unstable();
        let middle = reader.samples.get(reader.samples.len() / 2).copied().unwrap_or(0);
        p50 += middle as f64 / round.readers as f64;
    }
    if wrong > 0 || round.lossless && delivered != published * round.readers as u64 {
        return "error events were lost, torn or out of order".to_string();
    }
    format!(
        "published={} delivered={} seconds={:.6} publish_ns={:.3} process_ns={:.3} p50_ns={:.0}",
        published,
        delivered,
        seconds,
        cpu_ns as i64 as f64 / published as f64,
        process_ns as f64 / delivered.max(1) as f64,
        p50
    )
}

fn run_tokio(round: &Round) -> String {
    use tokio::sync::broadcast::{self, error::RecvError};
    if round.lossless {
        return "error a broadcast channel overwrites".to_string();
    }
    let (sender, first) = broadcast::channel::<Event>(BUFFER_COUNT);
    let mut receivers = vec![first];
    receivers.extend((1..round.readers).map(|_| sender.subscribe()));
    let send = move |event| {
        let _ = sender.send(event);
    };
    let read = |mut receiver: broadcast::Receiver<Event>, reader: &mut Reader| {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            loop {
                match receiver.recv().await {
                    Ok(event) => reader.take(&event),
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => break,
                }
            }
        });
    };
    run(round, send, receivers, read)
}

fn run_crossbeam(round: &Round) -> String {
    let (senders, receivers): (Vec<_>, Vec<_>) =
        (0..round.readers).map(|_| crossbeam_channel::bounded::<Event>(BUFFER_COUNT)).unzip();
    let lossless = round.lossless;
    let send = move |event| {
        for sender in &senders {
            if lossless {
                sender.send(event).unwrap();
            } else {
                let _ = sender.try_send(event);
            }
        }
    };
    let read = |receiver: crossbeam_channel::Receiver<Event>, reader: &mut Reader| {
        for event in receiver.iter() {
            reader.take(&event);
        }
    };
    run(round, send, receivers, read)
}

fn main() {
    let which = std::env::args().nth(1).unwrap_or_default();
    for line in std::io::stdin().lock().lines() {
        let line = line.unwrap();
        let words: Vec<&str> = line.split_whitespace().collect();
        let round = Round {
            lossless: words[0] == "lossless",
            timed: words[0] == "latency",
            publishers: words[1].parse().unwrap(),
            readers: words[2].parse().unwrap(),
            seconds: words[3].parse().unwrap(),
            rate: words[4].parse().unwrap(),
        };
        println!("{}", if which == "tokio" { run_tokio(&round) } else { run_crossbeam(&round) });
    }
}
