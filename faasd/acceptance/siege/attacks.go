package main

// attacks are all attacks in their order. Those that stop a part of the box or
// restart all of it come last.
var attacks = []attack{
	// Attacks on accounts, sessions and access.
	{name: "login-race", tries: "9 logins with a password that is changed meanwhile, 8 times", run: loginRace},
	{name: "many-sessions", tries: "1,100 sessions of one account, then a new password", run: manySessions},
	{name: "many-logins", tries: "40 logins of one account", run: manyLogins},
	{name: "two-names", tries: "guessing one account's password by user name and by e-mail address in turn", run: twoNames},
	{name: "forged-addresses", tries: "40 guesses from one address, each with another X-Forwarded-For, at both doors", run: forgedAddresses},
	{name: "one-network", tries: "40 guesses from 40 IPv6 addresses of one /64", run: oneNetwork},
	{name: "keys", tries: "Idempotency-Keys that are too long, binary, another customer's, or used again for something else", run: keys},
	{name: "paths", tries: "paths with .., encoded or double slashes, to what the front door does not route", run: paths},
	{name: "callback", tries: "X-Callback-Url to the box's own stores, to the networks behind it and to a cloud's metadata, in every notation", run: callback},
	{name: "strangers-text", tries: "a name, a user name and a cancellation's reason that are links, to somebody else's address", run: strangersText},
	{name: "readable-data", tries: "reading DATA_DIR as another user of the machine", run: readableData},

	// Attacks on memory, connections and storage.
	{name: "huge-names", tries: "60 logins at once with a name of 1 MB, and as long e-mail addresses and passwords", run: hugeNames},
	{name: "big-bodies", tries: "bodies one byte over each route's limit, at both doors", run: bigBodies},
	{name: "bombs", tries: "JSON nested 100,000 deep, numbers of 200,000 digits, repeated members, compressed bodies", run: bombs},
	{name: "headers", tries: "1 MB of headers in one line or in 20,000, at both doors", run: headers},
	{name: "deep-pages", tries: "pages, limits, places and searches beyond any list's end", run: deepPages},
	{name: "heavy-readers", tries: "120 readers at once of a hundred orders of a hundred lines", run: heavyReaders},
	{name: "hoarder", tries: "230 orders of one customer in a row", run: hoarder},
	{name: "stalled-bodies", tries: "300 clients that send a body of 1 MiB but for its last byte", run: stalledBodies},
	{name: "slow-headers", tries: "300 clients that send a header a byte a second", run: slowHeaders},
	{name: "connections", tries: "4,000 connections of one client", run: connections},
	{name: "letter-storm", tries: "89 orders and their cancellations, and 20 other letters, to an address that was never verified", run: letterStorm},

	// Attacks while a part of the shop is unavailable.
	{name: "full-stream", tries: "60 orders while the stream is full and its consumer is stopped", run: fullStream},
	{name: "redis-unavailable", tries: "40 guesses while Redis does not answer", harms: []string{"redis"}, run: redisUnavailable},
	{name: "stalled-copy", tries: "using a token that was logged out while Redis did not answer", harms: []string{"redis"}, run: stalledCopy},
	{name: "half-change", tries: "new passwords while each database command fails, or the database is killed", harms: []string{"documents"}, run: halfChange},
	{name: "first-password", tries: "the first administrator's first password, after both e-mail and password were changed and the box was restarted", harms: []string{"the whole box"}, run: firstPassword},

	{name: "leaks", tries: "searching logs and processes' arguments for the passwords, tokens and keys of all attacks above", run: leaks},
}
