package main

import (
	"time"

	"chatvault/chatd/internal/ratelimit"
	"chatvault/protocol/cmdline"
	"chatvault/protocol/cmdline/admin"
	"chatvault/protocol/ticket"
)

// Config is the whole configuration: each field a flag, and a setting of the
// same name in the YAML file that --config names. What is wrong in it is said
// at the start, with exit code 2.
type Config struct {
	cmdline.ConfigFlag

	// Listen is where clients connect. Without TLS it must be on loopback, or
	// behind a proxy. Port 0 takes a free one; the line "listening" says which.
	Listen string `default:"127.0.0.1:8080" placeholder:"HOST:PORT" help:"Where clients connect (${default})."`
	// TLSCert and TLSKey are PEM files; both or none.
	TLSCert string `name:"tls-cert" placeholder:"FILE" help:"Certificate chain for clients, PEM."`
	TLSKey  string `name:"tls-key" placeholder:"FILE" help:"Its key, PEM."`
	// BehindProxy are the addresses of the proxies that end TLS. Only from them
	// is X-Forwarded-For believed, and without TLS only they may connect.
	BehindProxy []string `name:"behind-proxy" placeholder:"CIDR" help:"Range of the proxies that connect here; only their X-Forwarded-For counts."`
	// Host are the names by which clients dial this relay, with the port unless
	// it is 443 with wss or 80 with ws. An AUTH that names another is refused,
	// so that no other relay can pass on what was signed for it. May be left
	// out on loopback: then the address, and localhost, with the port.
	Host []string `placeholder:"HOST[:PORT]" help:"Names by which clients dial this relay; others are refused."`
	// Origin are the web pages that may connect. A client without an Origin
	// header, that is, an app, always may.
	Origin []string `placeholder:"ORIGIN" help:"Origins of web pages that may connect, as https://app.example."`

	// Vault are the vault nodes. A name is resolved again every 15 s, and all
	// its addresses are dialled.
	Vault []string `required:"" placeholder:"HOST:PORT" help:"Vault nodes, or a DNS name for all of them."`
	// VaultLinks is how many uplinks there are to each vault node. What a node
	// answers on one of them is written to the clients by one goroutine, so one
	// link keeps 1.6 cores busy at the most (docker/docs/operate.md). 0: one for
	// each four cores, at most 4.
	VaultLinks int `default:"0" help:"Uplinks to each vault node, 1 to 4; 0: one for each four cores."`
	// VaultCA signs the certificates of all roles; VaultCert must carry the
	// DNS name chatd.chatvault.internal. A vault must carry
	// vaultd.chatvault.internal, whatever its address.
	VaultCA   string `name:"vault-ca" required:"" placeholder:"FILE" help:"Private authority of the uplinks, PEM."`
	VaultCert string `required:"" placeholder:"FILE" help:"chatd's certificate for the uplinks, PEM."`
	VaultKey  string `required:"" placeholder:"FILE" help:"Its key, PEM."`

	// Fleet is the fleet id; tickets must be for it, vault nodes must name it.
	Fleet string `required:"" placeholder:"ID" help:"Fleet id."`
	// FleetBundle is served to clients, who check its signatures; chatd reads
	// only its epoch.
	FleetBundle string `required:"" placeholder:"FILE" help:"Signed fleet bundle, served at /v1/fleet."`
	// Issuers mint the tickets. Only in the file.
	Issuers []ticket.IssuerConfig `kong:"-" yaml:"issuers"`

	// Redis is shared by all relays: node addresses, presence, doorbells,
	// limits. Without it each relay does for itself what it can.
	//
	//	redis://[user@]host[:port][/db]
	//	redis-sentinel://[user@]host[:port],host[:port],…/master[/db]
	//	redis-cluster://[user@]host[:port],host[:port],…
	//	unix:///path/of/socket
	//
	// With rediss in the place of redis every connection is TLS, to sentinels
	// too. A password in it is refused: command lines are read by everybody.
	Redis string `default:"embedded" placeholder:"URL" help:"redis://, redis-sentinel:// or redis-cluster:// URL (rediss… for TLS), unix:///socket, or \"embedded\": one in this process, for a single relay (${default})."`
	// RedisPasswordFile keeps the password off the command line. It and the user
	// in the URL are read again at SIGHUP, for connections made from then on; one
	// that Redis refuses is not taken.
	RedisPasswordFile string `placeholder:"FILE" help:"File with the password of Redis, mode 0600."`
	// RedisSentinelUser and RedisSentinelPasswordFile are for the sentinels,
	// which have credentials of their own. These take a restart.
	RedisSentinelUser         string `placeholder:"NAME" help:"ACL user at the sentinels."`
	RedisSentinelPasswordFile string `placeholder:"FILE" help:"File with the password of the sentinels, mode 0600."`
	// RedisCA signs the certificates of Redis; the system's authorities do when
	// it is empty. What changes in the file takes a restart. Sentinels and clusters tell the addresses of servers: the
	// certificates must be for those. RedisCert and RedisKey are for a Redis
	// that wants certificates of its clients; both or none, read again at SIGHUP.
	RedisCA   string `name:"redis-ca" placeholder:"FILE" help:"Authority of Redis' certificates, PEM; the system's if empty."`
	RedisCert string `placeholder:"FILE" help:"chatd's certificate for Redis, PEM."`
	RedisKey  string `placeholder:"FILE" help:"Its key, PEM."`

	// NoticeWebhook is told, by POST, when a doorbell rang at an account of
	// which no other device is connected to any relay, so that the app can push
	// (protocol/docs/integrate.md). https, or http on loopback.
	NoticeWebhook string `placeholder:"URL" help:"Where the app's backend hears of doorbells that no device heard."`
	// NoticeWebhookKeyFile holds what signs the POSTs: a line whsec_ and 24 to
	// 64 bytes in base64; a second such line while keys are exchanged. Read again
	// at SIGHUP.
	NoticeWebhookKeyFile string `placeholder:"FILE" help:"File with the key that signs them, whsec_… as of Standard Webhooks, mode 0600."`
	// NoticeWebhookCA is wanted when no authority of the system signs the
	// backend's certificate. What changes in the file takes a restart.
	NoticeWebhookCA string `name:"notice-webhook-ca" placeholder:"FILE" help:"Authority of the backend's certificate, PEM; the system's if empty."`
	// NoticeWebhookIssuer says whose accounts are told there, when there are
	// several issuers: no app may learn of another one's people.
	NoticeWebhookIssuer string `placeholder:"NAME" help:"Name of the issuer whose accounts are told there; wanted if there are several."`

	// MaxConnections beyond it new ones get 503. 0: as many as the limit of
	// open files allows, 256 kept for other use.
	MaxConnections int `default:"0" help:"Clients at a time; 0: what the limit of open files allows."`
	// MaxSessionsPerConnection beyond it OPEN and ATTACH are refused.
	MaxSessionsPerConnection int `default:"4" help:"Vault sessions at a time on one connection (${default})."`
	// MaxQueuedMB bounds what waits to be written to all clients together. Beyond
	// it, a client for which something waits already is cut as a slow one.
	MaxQueuedMB int `name:"max-queued-mb" default:"64" help:"Frames that wait for slow clients, all together, in MiB (${default})."`
	// AuthTimeout is how long a client may take for its first AUTH.
	AuthTimeout time.Duration `default:"10s" help:"Time for a client's AUTH (${default})."`
	// Ping is how often a silent client should ping. One that was not heard
	// for 5/4 of it is pinged, one that was not heard for 5/2 of it is closed.
	Ping time.Duration `default:"30s" help:"How often silent clients should ping (${default})."`
	// DrainDelay is how long new clients are still served after SIGTERM, while
	// /readyz says 503 already: as long as the load balancer needs to notice.
	DrainDelay time.Duration `default:"0s" help:"Time between being unready and refusing new clients (${default})."`
	// Drain is how long vault sessions in flight may go on after SIGTERM. The
	// clients are sent away one after the other over 9/10 of it, faster if they
	// are few: 100 a second.
	Drain time.Duration `default:"60s" help:"Time for vault sessions in flight after SIGTERM (${default})."`
	// Limits is the file with the limits that differ from the defaults, and
	// with those that some have of their own; "chatd limits" knows more. Read
	// again at SIGHUP.
	Limits string `placeholder:"FILE" help:"YAML file of limits and overrides; see \"chatd limits defaults\"."`
	// Limit changes limits by name, over the file, whose overrides stay; which
	// there are: ratelimit.Definitions.
	Limit map[string]ratelimit.Limit `placeholder:"NAME=BURST/COUNT/PERIOD" mapsep:"," help:"Change a limit, as OpensPerAccount=60/30/1m; NAME=off lifts it."`

	// The listener for operators.
	admin.AdminFlags

	// MemoryLimit is where Go's runtime begins to collect harder; it ends
	// nothing. The variable GOMEMLIMIT wins.
	MemoryLimit cmdline.Size `default:"0" placeholder:"SIZE" help:"Soft memory limit of Go's runtime, as 2GiB; 0: nine tenths of the cgroup's, if it has one. GOMEMLIMIT wins."`

	// LogLevel and LogFormat of the lines on standard error.
	LogLevel  string `enum:"debug,info,warn,error" default:"info" help:"debug, info, warn or error (${default})."`
	LogFormat string `enum:"json,text" default:"json" help:"json or text (${default})."`
}
