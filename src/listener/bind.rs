//! Opening a listening socket.

use std::{
    fs, io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
        unix::fs::{FileTypeExt, MetadataExt},
    },
    path::{Path, PathBuf},
};

use socket2::{Domain, SockAddr, SockRef, Socket, Type};

use crate::{config::model::Address, net};

/// Connections that the kernel keeps for us until they are accepted; it takes the smaller of this
/// and `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// A listening socket; of a Unix socket also its file, which is removed when this is dropped.
#[derive(Debug)]
pub struct Listening {
    socket: Socket,
    address: Address,
    _file: Option<SocketFile>,
}

/// Binds and listens, without blocking.
///
/// No `SO_REUSEPORT`: a second process on the same port must fail, not silently take half of the
/// connections. So an address that overlaps one in use (`0.0.0.0:80` beside `127.0.0.1:80`) can't
/// be bound in the same reload that gives the other one up.
pub fn bind(address: &Address) -> io::Result<Listening> {
    match address {
        Address::Tcp(address) => {
            let socket = new_socket(Domain::for_address(*address))?;
            socket.set_reuse_address(true)?;
            if address.is_ipv6() {
                socket.set_only_v6(true)?;
            }
            // Accepted sockets inherit these: system calls that not each of them needs.
            socket.set_tcp_nodelay(true)?;
            net::probe_when_silent(SockRef::from(&socket))?;
            socket.bind(&(*address).into())?;
            socket.listen(BACKLOG)?;
            let actual = socket.local_addr()?.as_socket().unwrap_or(*address);
            Ok(Listening {
                socket,
                address: Address::Tcp(actual),
                _file: None,
            })
        }
        Address::Unix(path) => {
            remove_stale(path)?;
            let socket = new_socket(Domain::UNIX)?;
            socket.bind(&SockAddr::unix(path)?)?;
            let file = SocketFile::new(path)?;
            socket.listen(BACKLOG)?;
            Ok(Listening {
                socket,
                address: address.clone(),
                _file: Some(file),
            })
        }
    }
}

impl Listening {
    /// Where it listens: a port 0 has become a number.
    pub fn address(&self) -> &Address {
        &self.address
    }
}

impl AsFd for Listening {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for Listening {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

fn new_socket(domain: Domain) -> io::Result<Socket> {
    Socket::new(domain, Type::STREAM.nonblocking().cloexec(), None)
}

/// Removes a socket file that a dead process left behind. A file that is no socket, or that
/// somebody listens on, stays, and `bind` says that the address is in use.
fn remove_stale(path: &Path) -> io::Result<()> {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
    if is_socket
        && new_socket(Domain::UNIX)?
            .connect(&SockAddr::unix(path)?)
            .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
    {
        fs::remove_file(path)?;
    }
    Ok(())
}

/// The file of a Unix socket that we made.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    /// Device and inode: should another process have put its own there, it is not ours to remove.
    identity: (u64, u64),
}

impl SocketFile {
    fn new(path: &Path) -> io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            identity: identity(path)?,
        })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|now| now == self.identity) {
            // Nothing is left to do when it fails: the next start removes it as stale.
            drop(fs::remove_file(&self.path));
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let file = fs::symlink_metadata(path)?;
    Ok((file.dev(), file.ino()))
}

#[cfg(test)]
mod tests {
    use std::{net::TcpStream, os::unix::net::UnixStream};

    use super::*;

    #[test]
    fn accepted_sockets_have_no_delay_and_are_probed() {
        let listening = bind(&Address::Tcp(([127, 0, 0, 1], 0).into())).unwrap();
        let Address::Tcp(address) = listening.address() else {
            panic!("{listening:?}")
        };
        let _client = TcpStream::connect(address).unwrap();
        let flags = rustix::net::SocketFlags::CLOEXEC;
        let accepted = rustix::net::accept_with(&listening, flags).unwrap();
        let accepted = Socket::from(accepted);
        assert!(accepted.tcp_nodelay().unwrap() && accepted.keepalive().unwrap());
        assert_eq!(accepted.tcp_keepalive_time().unwrap(), net::KEEPALIVE_IDLE);
    }

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("pillion-{}-{name}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    #[test]
    fn port_0_becomes_a_number_that_takes_connections() {
        let listening = bind(&Address::Tcp("127.0.0.1:0".parse().unwrap())).unwrap();
        let Address::Tcp(address) = listening.address() else {
            panic!("not TCP")
        };
        assert_ne!(address.port(), 0);
        TcpStream::connect(address).unwrap();
        assert!(bind(listening.address()).is_err(), "the port is taken");
    }

    #[test]
    fn a_stale_socket_file_is_replaced_and_removed_at_the_end() {
        let folder = folder("stale");
        let path = folder.join("s");
        // A dead process leaves its file: the standard library never removes it.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let listening = bind(&Address::Unix(path.clone())).unwrap();
        UnixStream::connect(&path).unwrap();
        drop(listening);
        assert!(!path.exists());
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_live_socket_and_a_plain_file_are_left_alone() {
        let folder = folder("live");
        let live = folder.join("live");
        let _other = std::os::unix::net::UnixListener::bind(&live).unwrap();
        assert!(bind(&Address::Unix(live.clone())).is_err());
        UnixStream::connect(&live).unwrap();
        let file = folder.join("file");
        fs::write(&file, "kept").unwrap();
        assert!(bind(&Address::Unix(file.clone())).is_err());
        assert_eq!(fs::read(&file).unwrap(), b"kept");
        fs::remove_dir_all(folder).unwrap();
    }
}
