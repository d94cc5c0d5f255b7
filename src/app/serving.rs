//! The listeners: their sockets, and the server that answers on the main one, of one kind or the other.

use std::{
    net::{SocketAddr, TcpListener},
    path::Path,
    time::Duration,
};

use actix_http::{HttpServiceBuilder, Request, Response, TlsAcceptorConfig};
use actix_server::GracefulShutdownSignal;
use actix_service::{IntoServiceFactory, ServiceFactory, ServiceFactoryExt as _, map_config};
use actix_web::{
    App, HttpServer,
    body::{BoxBody, MessageBody},
    dev::{AppConfig, Server, ServiceRequest, ServiceResponse},
};
use rustls::ServerConfig;

use super::Failure;
use crate::doors::ws;

/// For a socket whose reader is slow the kernel keeps twice this, its own bookkeeping included; what is more waits in the mirrors, once for all.
const SEND_BUFFER: usize = 32 * 1024;
/// The library takes no more for a socket while so much waits to be written to it.
const WRITE_BUFFER: usize = 8 * 1024;
/// Sockets that wait to be accepted.
const BACKLOG: i32 = 2048;
/// For requests that are still being answered when the sockets have gone.
const LAST_REQUESTS_S: u64 = 5;
/// For the other side to close a connection that has ended, as actix-web has it.
const DISCONNECT: Duration = Duration::from_secs(1);

/// The routes of the application, with what stands around them, as both servers want them.
pub(super) trait Routes<B>:
    ServiceFactory<ServiceRequest, Config = (), Response = ServiceResponse<B>, Error = actix_web::Error, InitError = ()>
    + 'static
{
}

impl<T, B> Routes<B> for T where
    T: ServiceFactory<
            ServiceRequest,
            Config = (),
            Response = ServiceResponse<B>,
            Error = actix_web::Error,
            InitError = (),
        > + 'static
{
}

/// The server of actix-web, in which actix-ws carries the sockets.
pub(super) fn library<F, T, B>(
    app: F,
    listener: TcpListener,
    tls: Option<ServerConfig>,
    most: usize,
) -> std::io::Result<Server>
where
    F: Fn() -> App<T> + Clone + Send + 'static,
    T: Routes<B>,
    B: MessageBody + 'static,
{
    let server = HttpServer::new(app)
        .max_connections(most)
        .h1_write_buffer_size(WRITE_BUFFER)
        // Who has closed its half waits for no answer; a stream of events would not notice until it is written to.
        .h1_allow_half_closed(false)
        .shutdown_timeout(LAST_REQUESTS_S)
        .disable_signals();
    let server = match tls {
        Some(tls) => server.listen_rustls_0_23(listener, tls)?,
        None => server.listen(listener)?,
    };
    Ok(server.run())
}

/// The same out of its parts, for its builder has no place for a service that takes sockets over.
pub(super) fn direct<F, T, B>(
    app: F,
    listener: TcpListener,
    tls: Option<ServerConfig>,
    most: usize,
) -> std::io::Result<Server>
where
    F: Fn() -> App<T> + Clone + Send + 'static,
    T: Routes<B>,
    B: MessageBody + 'static,
{
    let builder = Server::build();
    let stops = builder.graceful_shutdown_signal();
    let address = listener.local_addr()?;
    let name = "rollcall";
    let builder = builder.max_concurrent_connections(most).shutdown_timeout(LAST_REQUESTS_S).disable_signals();
    let builder = match tls {
        Some(tls) => builder.listen(name, listener, move || {
            service(address, stops.clone())
                .upgrade(ws::upgrade(app().into_factory()))
                .finish(answering(app()))
                .rustls_0_23_with_config(tls.clone(), TlsAcceptorConfig::default())
        }),
        None => builder.listen(name, listener, move || {
            service(address, stops.clone()).upgrade(ws::upgrade(app().into_factory())).finish(answering(app())).tcp()
        }),
    };
    Ok(builder?.run())
}

/// What answers on one connection, set as actix-web's server does by itself and as [`library`] sets it.
fn service<T, S>(address: SocketAddr, stops: GracefulShutdownSignal) -> HttpServiceBuilder<T, S>
where
    S: ServiceFactory<Request, Config = ()>,
    S::Error: Into<Response<BoxBody>> + 'static,
    S::InitError: std::fmt::Debug,
    S::Service: 'static,
    T: 'static,
{
    HttpServiceBuilder::default()
        .graceful_shutdown_signal(move || {
            let stops = stops.clone();
            async move { stops.notified().await }
        })
        .client_disconnect_timeout(DISCONNECT)
        .h1_write_buffer_size(WRITE_BUFFER)
        .h1_allow_half_closed(false)
        .local_addr(address)
}

/// The application as a service of requests.
fn answering<T, B>(
    app: App<T>,
) -> impl ServiceFactory<Request, Config = (), Response = ServiceResponse<B>, Error = Response<BoxBody>, InitError = ()>
where
    T: Routes<B>,
    B: MessageBody + 'static,
{
    let app = IntoServiceFactory::<_, Request>::into_factory(app)
        .map_err(|error: actix_web::Error| error.error_response().into());
    map_config(app, |()| AppConfig::default())
}

/// A socket that listens.
pub(super) fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    use socket2::{Domain, Protocol, Socket, Type};
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    // Sockets inherit these from the listener.
    socket.set_send_buffer_size(SEND_BUFFER)?;
    socket.set_tcp_nodelay(true)?;
    // No TCP_USER_TIMEOUT: the kernel counts it from when the peer's window was too small for all that waits, and goes on counting while the peer reads.
    socket.set_nonblocking(true)?;
    let error =
        |error: std::io::Error| std::io::Error::new(error.kind(), format!("cannot listen on {address}: {error}"));
    socket.bind(&address.into()).map_err(error)?;
    socket.listen(BACKLOG).map_err(error)?;
    Ok(socket.into())
}

/// What the listener shows of itself.
pub(super) fn tls_config(certificates: &Path, key: &Path) -> Result<rustls::ServerConfig, Failure> {
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
    let unreadable = |path: &Path, why: &dyn std::fmt::Display| format!("{} cannot be read: {why}", path.display());
    let chain = CertificateDer::pem_file_iter(certificates)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|why| unreadable(certificates, &why))?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(|why| unreadable(key, &why))?;
    Ok(rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key)?)
}
