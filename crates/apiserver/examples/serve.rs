//! The embedded API alone, to try kubectl on: `cargo run -p fairlead-apiserver --example serve -- DIR 127.0.0.1:6443 CRD.yaml...`
//!
//! The kubeconfig is `DIR/admin.kubeconfig`.
#![expect(clippy::print_stdout, reason = "a program for people")]

use std::error::Error;

use fairlead_apiserver::{Config, Server};
use fairlead_rt::CancellationToken;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(dir), Some(listen)) = (args.next(), args.next()) else {
        return Err("usage: serve DIR ADDRESS:PORT [CRD.yaml...]".into());
    };
    let mut config = Config::new(dir, listen.parse()?);
    for path in args {
        let text = std::fs::read_to_string(&path)?;
        config.crds.push(serde_norway::from_str(&text)?);
    }
    let server = Server::open(config)?;
    println!("serving on {}", server.local_addr());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let stop = CancellationToken::new();
    runtime.block_on(server.run(stop))?;
    Ok(())
}
