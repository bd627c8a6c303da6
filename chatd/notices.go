package main

import (
	"crypto/x509"
	"errors"
	"fmt"
	"slices"

	"chatvault/chatd/internal/clock"
	"chatvault/chatd/internal/count"
	"chatvault/chatd/internal/notify"
	"chatvault/protocol/cmdline"
	"chatvault/protocol/ticket"
)

// noticePlan says where an app hears of doorbells that nobody heard.
type noticePlan struct {
	notify.Config
	issuer string // whose accounts
}

func (p *plan) checkNotices() (err error) {
	cfg := p.cfg
	if cfg.NoticeWebhook == "" {
		if cfg.NoticeWebhookKeyFile != "" || cfg.NoticeWebhookCA != "" || cfg.NoticeWebhookIssuer != "" {
			return errors.New("notice-webhook-key-file, notice-webhook-ca and notice-webhook-issuer: want notice-webhook")
		}
		return nil
	}
	n := &noticePlan{Config: notify.Config{URL: cfg.NoticeWebhook, Clock: clock.System{}}}
	if err := notify.CheckURL(cfg.NoticeWebhook); err != nil {
		return fmt.Errorf("notice-webhook: %w", err)
	}
	if cfg.NoticeWebhookKeyFile == "" {
		return errors.New("notice-webhook: wants notice-webhook-key-file, else anybody could ring")
	}
	file, err := cmdline.ReadSecretFile(cfg.NoticeWebhookKeyFile)
	if err != nil {
		return fmt.Errorf("notice-webhook-key-file: %w", err)
	}
	if n.Keys, err = notify.ParseKeys(file); err != nil {
		return fmt.Errorf("notice-webhook-key-file: %w", err)
	}
	if cfg.NoticeWebhookCA != "" {
		if n.Roots, err = readPool(cfg.NoticeWebhookCA); err != nil {
			return fmt.Errorf("notice-webhook-ca: %w", err)
		}
	}
	if n.issuer, err = p.noticeIssuer(); err != nil {
		return err
	}
	p.notices = n
	return nil
}

// noticeRoots are the authorities of the certificate of the app's backend; nil:
// the system's, or nobody is told.
func (p *plan) noticeRoots() *x509.CertPool {
	if p.notices == nil {
		return nil
	}
	return p.notices.Roots
}

func (p *plan) noticeIssuer() (string, error) {
	issuers, name := p.cfg.Issuers, p.cfg.NoticeWebhookIssuer
	if name == "" && len(issuers) == 1 {
		return issuers[0].Name, nil
	}
	if !slices.ContainsFunc(issuers, func(i ticket.IssuerConfig) bool { return i.Name == name }) {
		return "", errors.New("notice-webhook-issuer: want the name of one of the issuers")
	}
	return name, nil
}

// webhook returns what posts, and what it is told; nil and nil without one.
func (p *plan) webhook(counts *count.Set) (*notify.Webhook, func(ticket.Account)) {
	if p.notices == nil {
		return nil, nil
	}
	cfg := p.notices.Config
	cfg.Count = counts.Add
	w := notify.New(cfg)
	return w, func(a ticket.Account) {
		if a.Issuer == p.notices.issuer {
			w.Notify(a.Subject)
		}
	}
}
