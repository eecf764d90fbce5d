package docker

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"google.golang.org/protobuf/encoding/protowire"
)

// buildSession is what BuildKit asks its client for in the middle of a build, through a connection of its own on which the engine
// is the one that asks: logins of base images' registries, secrets of steps, and the files of the context that it has not got yet. It speaks
// gRPC, of which a few messages are all that is needed: the library that has all of it costs a cold compile more than the rest of this package.
// Source: session/auth/auth.proto and session/secrets/secrets.proto of https://github.com/moby/buildkit
type buildSession struct {
	id      string
	files   *buildContext
	login   func(host string) (username, password string)
	secrets map[string][]byte

	mu  sync.Mutex
	err error // why a file could not be sent: the first reason
}

func (s *buildSession) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = cmp.Or(s.err, err)
}

// failure is why a file could not be sent, nil if all could.
func (s *buildSession) failure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

func newBuildSession(files *buildContext, logins []Auth, secrets map[string][]byte) *buildSession {
	return &buildSession{id: rand.Text(), files: files, secrets: secrets, login: func(host string) (string, string) {
		for _, auth := range logins {
			if !sameRegistry(auth.Host, host) {
				continue
			}
			if auth.IdentityToken != "" {
				return "", auth.IdentityToken // which is how BuildKit tells one from a password
			}
			return auth.Username, auth.Password
		}
		return "", ""
	}}
}

// sameRegistry knows the names that Docker Hub has.
func sameRegistry(a, b string) bool {
	hub := func(host string) string {
		switch host {
		case authn.DefaultAuthKey, "docker.io", "registry-1.docker.io":
			return "index.docker.io"
		}
		return host
	}
	return hub(a) == hub(b)
}

const (
	methodHealth      = "/grpc.health.v1.Health/Check"
	methodCredentials = "/moby.filesync.v1.Auth/Credentials"
	methodSecret      = "/moby.buildkit.secrets.v1.Secrets/GetSecret"
)

// headers tell the engine what can be asked for.
func (s *buildSession) headers() map[string][]string {
	return map[string][]string{
		"X-Docker-Expose-Session-Uuid":        {s.id},
		"X-Docker-Expose-Session-Name":        {"grimoire"},
		"X-Docker-Expose-Session-Sharedkey":   {s.files.sharedKey()},
		"X-Docker-Expose-Session-Grpc-Method": {methodHealth, methodCredentials, methodSecret, methodFileSync},
	}
}

// serve answers on a connection until it is closed or ctx ends.
func (s *buildSession) serve(ctx context.Context, conn net.Conn) {
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{Handler: s, Protocols: &protocols, ReadHeaderTimeout: time.Minute}
	one := &oneConn{conn: conn, closed: make(chan struct{})}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	// It ends when the connection does, or is closed; either is how a session ends.
	_ = server.Serve(one)
}

// oneConn is a listener that has one connection.
type oneConn struct {
	conn   net.Conn
	given  bool
	closed chan struct{}
	once   sync.Once
}

func (l *oneConn) Accept() (net.Conn, error) {
	if !l.given {
		l.given = true
		return &closingConn{l.conn, l}, nil
	}
	<-l.closed
	return nil, net.ErrClosed
}

func (l *oneConn) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.conn.Close()
}

func (l *oneConn) Addr() net.Addr { return l.conn.LocalAddr() }

// closingConn ends its listener with itself.
type closingConn struct {
	net.Conn
	listener *oneConn
}

func (c *closingConn) Close() error { return c.listener.Close() }

// Codes of gRPC. Source: https://grpc.github.io/grpc/core/md_doc_statuscodes.html
const (
	codeOK            = "0"
	codeUnknown       = "2"
	codeInvalid       = "3"
	codeNotFound      = "5"
	codeUnimplemented = "12"
)

// ServeHTTP answers a call of gRPC. Source: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
func (s *buildSession) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	w.Header().Set("Content-Type", "application/grpc")
	if req.URL.Path == methodFileSync {
		code := codeOK
		if err := s.sync(w, req); err != nil {
			code = codeUnknown
			w.Header().Set(http.TrailerPrefix+"Grpc-Message", url.PathEscape(err.Error()))
		}
		w.Header().Set(http.TrailerPrefix+"Grpc-Status", code)
		return
	}
	reply, code, message := s.answer(req)
	if code == codeOK {
		frame := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(reply)))
		_, _ = w.Write(append(frame, reply...))
	}
	w.Header().Set(http.TrailerPrefix+"Grpc-Status", code)
	if message != "" {
		w.Header().Set(http.TrailerPrefix+"Grpc-Message", message)
	}
}

func (s *buildSession) answer(req *http.Request) (reply []byte, code, message string) {
	asked, err := readMessage(req.Body)
	if err != nil {
		return nil, codeInvalid, "unreadable message"
	}
	switch req.URL.Path {
	case methodHealth:
		const serving = 1
		return appendVarint(nil, 1, serving), codeOK, ""
	case methodCredentials:
		username, password := s.login(string(asked[1]))
		reply = appendBytes(reply, 1, []byte(username))
		return appendBytes(reply, 2, []byte(password)), codeOK, ""
	case methodSecret:
		secret, ok := s.secrets[string(asked[1])]
		if !ok {
			return nil, codeNotFound, "no such secret"
		}
		return appendBytes(nil, 1, secret), codeOK, ""
	default:
		return nil, codeUnimplemented, "not offered"
	}
}

func appendBytes(message []byte, field protowire.Number, value []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(message, field, protowire.BytesType), value)
}

func appendVarint(message []byte, field protowire.Number, value uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(message, field, protowire.VarintType), value)
}

// messageLimit is how long a message of the engine's may be, in bytes.
const messageLimit = 1 << 20

// readFrame reads a message as it is.
func readFrame(r io.Reader) ([]byte, error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	length := binary.BigEndian.Uint32(head[1:])
	if head[0] != 0 || length > messageLimit {
		return nil, errors.New("compressed, or too long")
	}
	message := make([]byte, length)
	_, err := io.ReadFull(r, message)
	return message, err
}

// readMessage reads a message, and returns its fields that are texts; of one that occurs twice, the last.
func readMessage(r io.Reader) (map[protowire.Number][]byte, error) {
	message, err := readFrame(r)
	if err != nil {
		return nil, err
	}
	fields := map[protowire.Number][]byte{}
	err = eachField(message, func(number protowire.Number, value []byte, _ uint64) error {
		if value != nil {
			fields[number] = value
		}
		return nil
	})
	return fields, err
}

// eachField tells of each field of a message: as bytes where it has a length, else as a number.
func eachField(message []byte, tell func(number protowire.Number, value []byte, n uint64) error) error {
	for len(message) > 0 {
		number, kind, n := protowire.ConsumeTag(message)
		if n < 0 {
			return protowire.ParseError(n)
		}
		message = message[n:]
		var err error
		switch kind {
		case protowire.BytesType:
			var value []byte
			if value, n = protowire.ConsumeBytes(message); n >= 0 {
				err = tell(number, value[:len(value):len(value)], 0)
			}
		case protowire.VarintType:
			var value uint64
			if value, n = protowire.ConsumeVarint(message); n >= 0 {
				err = tell(number, nil, value)
			}
		default:
			n = protowire.ConsumeFieldValue(number, kind, message)
		}
		if n < 0 {
			return protowire.ParseError(n)
		}
		if err != nil {
			return fmt.Errorf("field %d: %w", number, err)
		}
		message = message[n:]
	}
	return nil
}
