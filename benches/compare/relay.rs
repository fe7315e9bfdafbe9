//! A plain TCP relay: what any proxy on this runtime must pay. `make bench` runs it beside the
//! proxies as their limit. Arguments: the address to listen on, the address to connect to.

use std::{env, io};

use tokio::{
    io::copy_bidirectional_with_sizes,
    net::{TcpListener, TcpStream},
    task::spawn_local,
};

const BUFFER: usize = 8 * 1024;

fn main() -> io::Result<()> {
    let mut arguments = env::args().skip(1);
    let (Some(listen), Some(origin)) = (arguments.next(), arguments.next()) else {
        return Err(io::Error::other("usage: relay LISTEN ORIGIN"));
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build_local(tokio::runtime::LocalOptions::default())?;
    runtime.block_on(async {
        let listener = TcpListener::bind(listen).await?;
        loop {
            let (client, _) = listener.accept().await?;
            let origin = origin.clone();
            spawn_local(async move {
                // A connection that fails ends; the load generator counts it.
                let _ = relay(client, &origin).await;
            });
        }
    })
}

async fn relay(mut client: TcpStream, origin: &str) -> io::Result<()> {
    let mut origin = TcpStream::connect(origin).await?;
    client.set_nodelay(true)?;
    origin.set_nodelay(true)?;
    copy_bidirectional_with_sizes(&mut client, &mut origin, BUFFER, BUFFER).await?;
    Ok(())
}
