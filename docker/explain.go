package docker

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// sentence is an error in words of ours. The cause can be asked for with errors.Is and errors.As; its text, which may hold
// a login or a page of HTML, stays out.
type sentence struct {
	text  string
	cause error
}

func (s *sentence) Error() string { return s.text }
func (s *sentence) Unwrap() error { return s.cause }

// explain turns an error into one sentence: what was done to which reference, what went wrong, what to do about it.
func (s *session) explain(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	doing := fmt.Sprintf("%s %q", s.doing, s.ref.Name())
	if ctx.Err() != nil {
		return fmt.Errorf("%s: %w", doing, context.Cause(ctx))
	}
	if hasStatus(err, http.StatusNotFound) && s.doing != "pushing" {
		return fmt.Errorf("%s: %w", doing, ErrNotFound)
	}
	return &sentence{text: doing + ": " + s.reason(err), cause: err}
}

func (s *session) reason(err error) string {
	host := s.ref.Context().RegistryStr()
	repository := s.ref.Context().RepositoryStr()
	after := ""
	var again *tried
	if errors.As(err, &again) && again.times > 1 {
		after = fmt.Sprintf(" after %d tries", again.times)
	}
	if again != nil && again.asked > 0 {
		after += fmt.Sprintf(" and wants no other try within %s", again.asked.Round(time.Second))
	}
	var answer *transport.Error
	var lookup *net.DNSError
	var network net.Error
	switch {
	case certificateProblem(err):
		return fmt.Sprintf("the certificate of %s is not trusted (%s); add its authority to the system's certificates, "+
			"or name the file in SSL_CERT_FILE", host, s.brief(err))
	case errors.As(err, &answer):
		return s.answerReason(answer, host, repository, after)
	case errors.As(err, &lookup) && lookup.IsNotFound:
		return fmt.Sprintf("there is no host %s; check the name of the registry", lookup.Name)
	case errors.As(err, &lookup):
		return fmt.Sprintf("the host %s could not be looked up%s (%s); check the network", lookup.Name, after, lookup.Err)
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Sprintf("nothing listens at %s; check that the registry runs, and its port", host)
	case passing(err) && errors.As(err, &network) && network.Timeout():
		return fmt.Sprintf("%s did not answer%s (%s); check the network", host, after, s.brief(err))
	case broken(err) != nil:
		return fmt.Sprintf("the connection to %s broke%s (%s); check the network and the registry's log", host, after, broken(err))
	// Last, because it is only the first half of the story where both TLS and plain HTTP were tried.
	case errors.Is(err, http.ErrSchemeMismatch):
		return fmt.Sprintf("%s speaks plain HTTP and not TLS; give it a certificate, or allow plain HTTP by Insecure", host)
	default:
		return s.brief(err)
	}
}

func (s *session) answerReason(answer *transport.Error, host, repository, after string) string {
	said := s.brief(answer)
	switch status := answer.StatusCode; {
	case status == http.StatusUnauthorized:
		return fmt.Sprintf("%s refused the login (%s); %s", host, said, s.login.cure(host))
	case status == http.StatusForbidden:
		return fmt.Sprintf("%s denied it (%s); the login needs the right to %s, with Gitea a token of the scope %s; %s",
			host, said, s.right(repository), s.scope(), s.login.cure(host))
	case status == http.StatusNotFound:
		return fmt.Sprintf("%s knows no owner or repository %s (%s); create it, or correct the name", host, repository, said)
	case status == http.StatusBadRequest && spokeHTTPToTLS(answer):
		return fmt.Sprintf("%s speaks TLS and not plain HTTP; check its certificate", host)
	case full(answer):
		return fmt.Sprintf("%s has no room left (%s); free some on its disk, or raise the owner's quota", host, said)
	case passingStatus(status):
		return fmt.Sprintf("%s answered %s%s; try again later, or look at the registry's log", host, said, after)
	default:
		return fmt.Sprintf("%s answered %s", host, said)
	}
}

func (s *session) right(repository string) string {
	if s.writes() {
		return "write packages in " + repository
	}
	return "read " + repository
}

func (s *session) scope() string {
	if s.writes() {
		return "write:package"
	}
	return "read:package"
}

func (s *session) writes() bool {
	return s.doing == "pushing" || s.doing == "tagging" || s.doing == "attaching to"
}

// explainEngine does the same for what an engine says of a push; it hands on the registry's words and no status.
func (s *session) explainEngine(err error) error {
	host := s.ref.Context().RegistryStr()
	text := s.login.redact(err.Error())
	contains := func(words ...string) bool {
		for _, word := range words {
			if strings.Contains(strings.ToLower(text), word) {
				return true
			}
		}
		return false
	}
	var said *streamError
	ofRegistry := errors.As(err, &said)
	switch {
	case contains("does not exist locally", "tag does not exist", "no such image"):
		text += "; build the image first"
	case contains("unauthorized", "no basic auth credentials", "authentication required"):
		text += "; " + s.login.cure(host)
	case ofRegistry && engineFull.MatchString(text):
		text += fmt.Sprintf("; free some room on the disk of %s, or raise the owner's quota", host)
	case contains("denied", "forbidden"):
		text += fmt.Sprintf("; give the login the right to %s", s.right(s.ref.Context().RepositoryStr()))
	case contains("http response to https client"):
		text += fmt.Sprintf("; name %s among the engine's insecure-registries, or give it a certificate", host)
	case contains("x509:", "certificate"):
		text += fmt.Sprintf("; put the authority of %s into the engine's /etc/docker/certs.d/%s/ca.crt", host, host)
	case contains("connection refused"):
		text += "; check that the registry runs, and that the engine reaches it under this name"
	case contains("no such host"):
		text += "; check the name of the registry, and that the engine's machine can look it up"
	case contains("name unknown", "not known to registry") || ofRegistry && contains("404 not found"):
		text += fmt.Sprintf("; create the owner or repository %s, or correct the name", s.ref.Context().RepositoryStr())
	case ofRegistry && engineBusy.MatchString(text):
		text += "; try again later, or look at the registry's log"
	case ofRegistry && engineBroken.MatchString(text):
		text += "; check the network between the engine and the registry, and the registry's log"
	}
	return &sentence{text: fmt.Sprintf("pushing %q: %s", s.ref.Name(), text), cause: err}
}

// brief is the cause in words that are not ours, without the login.
func (s *session) brief(err error) string { return s.login.redact(brief(err)) }

// brief is the cause without the request that it came from.
func brief(err error) string {
	var answer *transport.Error
	if errors.As(err, &answer) {
		status := strings.TrimSpace(fmt.Sprintf("%d %s", answer.StatusCode, http.StatusText(answer.StatusCode)))
		for _, diagnostic := range answer.Errors {
			if said := cmp.Or(diagnostic.Message, string(diagnostic.Code)); said != "" {
				return status + ": " + cut(said, stepLimit)
			}
		}
		return status
	}
	var request *url.Error
	if errors.As(err, &request) {
		err = request.Err
	}
	var again *tried
	if errors.As(err, &again) {
		err = again.cause
	}
	return cut(err.Error(), stepLimit)
}

func certificateProblem(err error) bool {
	var verification *tls.CertificateVerificationError
	var authority x509.UnknownAuthorityError
	var host x509.HostnameError
	var invalid x509.CertificateInvalidError
	return errors.As(err, &verification) || errors.As(err, &authority) || errors.As(err, &host) || errors.As(err, &invalid)
}

// spokeHTTPToTLS recognises what Go's and most other servers answer on a port that speaks TLS.
func spokeHTTPToTLS(answer *transport.Error) bool {
	return strings.Contains(answer.Error(), "HTTP request to an HTTPS server") ||
		strings.Contains(answer.Error(), "plain HTTP request was sent to HTTPS port")
}
