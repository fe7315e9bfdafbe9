//! Who takes part, and the requests between them.

use std::{fmt, io};

use tokio::time::Instant;

use super::{
    Result, Trouble,
    application::{Endpoint, HELLO},
    client::{Answer, Client, Failure},
    configuration::{self, DOMAIN, ONLY_STABLE, PKI},
    console::Console,
    folder::Folder,
    plane::Plane,
};
use crate::{cli::dev_ca, tls::TrustDomain};

/// Everything that runs. Dropped, all of it is gone, processes included.
pub(super) struct Stage {
    pub(super) application: Application,
    pub(super) sidecar: Plane,
    pub(super) ambassador: Plane,
    pub(super) client: Client,
    /// Requests sent so far.
    pub(super) requests: usize,
    /// Last, so that it outlives the processes that use it.
    pub(super) folder: Folder,
}

/// Two endpoints, and one of a newer version.
pub(super) struct Application {
    pub(super) red: Endpoint,
    pub(super) blue: Endpoint,
    pub(super) green: Endpoint,
}

impl Stage {
    /// Starts everybody, from the application to the client.
    pub(super) async fn set(console: &Console) -> Result<Self> {
        let folder = Folder::new()?;
        let application = Application::new()?;
        console.ok(format_args!("application: {application}"));
        issue(&folder)?;
        console.ok(format_args!(
            "certificates: spiffe://{DOMAIN}/ns/default/sa/ambassador and …/sidecar"
        ));

        let start = Instant::now();
        let file = folder.file("sidecar.yaml");
        let text = application.sidecar(ONLY_STABLE);
        let sidecar = Plane::start("sidecar", file, &text).await?;
        started(console, &sidecar, start);

        let start = Instant::now();
        let file = folder.file("ambassador.yaml");
        let text = configuration::ambassador(sidecar.address);
        let ambassador = Plane::start("ambassador", file, &text).await?;
        started(console, &ambassador, start);

        Ok(Self {
            client: Client::new(ambassador.address),
            application,
            sidecar,
            ambassador,
            requests: 0,
            folder,
        })
    }

    /// New certificates for both, in place of the old ones.
    pub(super) fn renew(&self) -> Result<()> {
        issue(&self.folder)
    }

    /// Sends requests one after the other over the client's connection, and counts who answered.
    /// Each that fails is printed; the others are sent all the same.
    pub(super) async fn requests(&mut self, count: usize, console: &Console) -> Result<Tally> {
        let mut tally = Tally::default();
        for _ in 0..count {
            self.requests += 1;
            match self.client.get(HELLO).await {
                Ok(answer) => tally.answered(&answer),
                Err(failure) => {
                    tally.failed += 1;
                    self.failed(HELLO, &failure, console);
                }
            }
        }
        match tally.failed {
            0 => Ok(tally),
            failed => Err(Trouble::Requests { failed, of: count }),
        }
    }

    /// Prints that the one request of a step failed, which ends the story.
    pub(super) fn only_failed(&self, path: &str, failure: &Failure, console: &Console) -> Trouble {
        self.failed(path, failure, console);
        Trouble::Requests { failed: 1, of: 1 }
    }

    fn failed(&self, path: &str, failure: &Failure, console: &Console) {
        console.failed(format_args!(
            "request {}, GET {path}: {failure}",
            self.requests
        ));
    }
}

/// Makes certificates for both data planes, and an authority if there is none yet.
fn issue(folder: &Folder) -> Result<()> {
    let domain: TrustDomain = DOMAIN.parse().expect("a valid name");
    dev_ca::quietly(&folder.file(PKI), &domain, &["ambassador", "sidecar"]).map_err(Trouble::Step)
}

fn started(console: &Console, plane: &Plane, start: Instant) {
    console.ok(format_args!(
        "{}: {}, process {}, ready after {} ms",
        plane.name,
        plane.address,
        plane.pid(),
        start.elapsed().as_millis()
    ));
}

impl Application {
    fn new() -> io::Result<Self> {
        Ok(Self {
            red: Endpoint::new("red")?,
            blue: Endpoint::new("blue")?,
            green: Endpoint::new("green")?,
        })
    }

    /// The sidecar's configuration before it.
    pub(super) fn sidecar(&self, backend_refs: &str) -> String {
        configuration::sidecar(
            [self.red.address, self.blue.address],
            self.green.address,
            backend_refs,
        )
    }

    /// Stops it as a whole.
    pub(super) async fn stop(&mut self) -> io::Result<()> {
        for endpoint in [&mut self.red, &mut self.blue, &mut self.green] {
            endpoint.stop().await?;
        }
        Ok(())
    }
}

impl fmt::Display for Application {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "red {}, blue {}, and a newer one, green {}",
            self.red.address, self.blue.address, self.green.address
        )
    }
}

/// Which endpoint answered how many requests.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) red: usize,
    pub(super) blue: usize,
    pub(super) green: usize,
    failed: usize,
}

impl Tally {
    fn answered(&mut self, answer: &Answer) {
        match &*answer.served_by {
            "red" => self.red += 1,
            "blue" => self.blue += 1,
            _ => self.green += 1,
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            red,
            blue,
            green,
            failed,
        } = self;
        let requests = red + blue + green + failed;
        write!(f, "{requests} requests: red {red}, blue {blue}")?;
        if *green > 0 {
            write!(f, ", green {green}")?;
        }
        write!(f, ", failed {failed}")
    }
}
