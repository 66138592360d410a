//! Loads for the benchmarks, as ordinary programs in pods make them: small UDP packets at a given rate (`send`,
//! `receive`), and requests with their responses (`ask`, `echo`).
//!
//! The end that is connected to prints `listening` first. Every end but `echo` prints its result as one line of JSON.

mod ask;
mod datagram;
mod receive;
mod send;

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::ask::Times;
use crate::datagram::{HEADER, LARGEST};

#[derive(Parser)]
#[command(
    name = "weft-load",
    about = "Loads for weft's benchmarks: UDP packets at a rate, and requests with responses"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Sends UDP packets at a rate, and then word that it has ended
    Send(SendArgs),
    /// Receives what `send` sends, until its end
    Receive(ReceiveArgs),
    /// Sends requests one after the other and measures how long each response takes
    Ask(AskArgs),
    /// Answers what `ask` sends, until its end
    Echo(EchoArgs),
}

#[derive(Args)]
struct SendArgs {
    /// Where `receive` listens
    to: SocketAddr,
    /// Packets a second; 0 for as many as it can
    #[arg(long, default_value_t = 0)]
    rate: u64,
    /// Bytes of UDP payload
    #[arg(long, default_value_t = 64, value_parser = size)]
    size: usize,
    /// For how long
    #[arg(long, default_value = "5", value_parser = seconds)]
    seconds: Duration,
}

#[derive(Args)]
struct ReceiveArgs {
    /// Address and port to listen on
    listen: SocketAddr,
    /// Ask the socket again and again, instead of sleeping until something comes
    #[arg(long)]
    busy: bool,
    /// Bytes that the socket holds, beyond what the kernel lets everyone have; 0 for the kernel's default
    #[arg(long, default_value_t = 0)]
    buffer: usize,
}

#[derive(Args)]
struct AskArgs {
    protocol: Protocol,
    /// Where `echo` listens
    to: SocketAddr,
    /// Bytes of each request and response
    #[arg(long, default_value_t = 64, value_parser = size)]
    size: usize,
    /// For how long
    #[arg(long, default_value = "5", value_parser = seconds)]
    seconds: Duration,
    /// For how long before that, without measuring
    #[arg(long, default_value = "0.3", value_parser = seconds)]
    warm_up: Duration,
    /// How long to be silent before each request, which is not measured
    #[arg(long, default_value = "0", value_parser = seconds)]
    pause: Duration,
}

impl AskArgs {
    fn times(&self) -> Times {
        Times { warm_up: self.warm_up, seconds: self.seconds, pause: self.pause }
    }
}

#[derive(Args)]
struct EchoArgs {
    protocol: Protocol,
    /// Address and port to listen on
    listen: SocketAddr,
    /// Bytes of each request and response
    #[arg(long, default_value_t = 64, value_parser = size)]
    size: usize,
}

#[derive(Clone, Copy, ValueEnum)]
enum Protocol {
    Tcp,
    Udp,
}

fn seconds(text: &str) -> Result<Duration> {
    Ok(Duration::try_from_secs_f64(text.parse()?)?)
}

fn size(text: &str) -> Result<usize> {
    let size = text.parse()?;
    ensure!((HEADER..=LARGEST).contains(&size), "it must be {HEADER} to {LARGEST}");
    Ok(size)
}

fn main() -> Result<()> {
    match Cli::parse().command {
        Command::Send(args) => send::send(args.to, args.rate, args.size, args.seconds),
        Command::Receive(args) => receive::receive(args.listen, args.busy, args.buffer),
        Command::Ask(args) => match args.protocol {
            Protocol::Tcp => ask::ask_tcp(args.to, args.size, &args.times()),
            Protocol::Udp => ask::ask_udp(args.to, args.size, &args.times()),
        },
        Command::Echo(args) => match args.protocol {
            Protocol::Tcp => ask::echo_tcp(args.listen, args.size),
            Protocol::Udp => ask::echo_udp(args.listen),
        },
    }
}
