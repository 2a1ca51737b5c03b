#!/bin/bash
# What faasd leaves open, and a box's firewall closes:
#
#   firewall.sh up [only]    again and again changes nothing; "only" drops what
#                            is forwarded and not faasd's, for a machine that
#                            forwarded nothing before
#   firewall.sh down
#
# - A neighbour who routes faasd's network to this machine reaches every
#   container, and the provider, whose port is open on every address and which
#   calls any function: nothing that arrives from outside may be for either.
#   Containers' own connections leave as this machine's (masquerading), so that
#   no answer is for faasd's network, either.
# - A container can ask the cloud's metadata service, which hands out the
#   machine's user data and credentials. Names it may ask it: some clouds have
#   their resolver at the same address.
#
# The rules stand in the table raw, which comes before everything that other
# rules, those of CNI, ufw or Docker, could accept.
set -euo pipefail
export PATH=$PATH:/usr/sbin:/sbin

bridge=openfaas0 network=10.62.0.0/16 provider=8081 # as faasd has them

# hook IPTABLES TABLE CHAIN OURS -I|-A: has CHAIN ask our chain, once.
hook() { "$1" -w 10 -t "$2" -C "$3" -j "$4" 2>/dev/null || "$1" -w 10 -t "$2" "$5" "$3" -j "$4"; }

# unhook IPTABLES TABLE CHAIN OURS: removes our chain.
unhook() {
	while "$1" -w 10 -t "$2" -D "$3" -j "$4" 2>/dev/null; do :; done
	"$1" -w 10 -t "$2" -F "$4" 2>/dev/null && "$1" -w 10 -t "$2" -X "$4" || true
}

ipv6() { [ -e /proc/sys/net/ipv6 ]; }

up() {
	iptables-restore -w 10 --noflush <<-END
		*raw
		:KIOSK -
		-A KIOSK -i lo -j RETURN
		-A KIOSK -i $bridge -p udp --dport 53 -j RETURN
		-A KIOSK -i $bridge -p tcp --dport 53 -j RETURN
		-A KIOSK -i $bridge -d 169.254.0.0/16 -j DROP
		-A KIOSK -i $bridge -d 100.100.100.200 -j DROP
		-A KIOSK -i $bridge -j RETURN
		-A KIOSK -s $network -j DROP
		-A KIOSK -d $network -j DROP
		-A KIOSK -p tcp --dport $provider -m addrtype --dst-type LOCAL -j DROP
		COMMIT
	END
	hook iptables raw PREROUTING KIOSK -I
	# faasd's network is IPv4's alone, but the provider listens on both.
	if ipv6; then
		ip6tables-restore -w 10 --noflush <<-END
			*raw
			:KIOSK -
			-A KIOSK -i lo -j RETURN
			-A KIOSK -i $bridge -j RETURN
			-A KIOSK -p tcp --dport $provider -m addrtype --dst-type LOCAL -j DROP
			COMMIT
		END
		hook ip6tables raw PREROUTING KIOSK -I
	fi
	[ "${1:-}" = only ] || return 0
	iptables-restore -w 10 --noflush <<-END
		*filter
		:KIOSK-FORWARD -
		-A KIOSK-FORWARD -i $bridge -j RETURN
		-A KIOSK-FORWARD -o $bridge -j RETURN
		-A KIOSK-FORWARD -j DROP
		COMMIT
	END
	hook iptables filter FORWARD KIOSK-FORWARD -A
}

down() {
	unhook iptables raw PREROUTING KIOSK
	unhook iptables filter FORWARD KIOSK-FORWARD
	! ipv6 || unhook ip6tables raw PREROUTING KIOSK
}

case ${1:-} in
up | down) "$@" ;;
*) echo "usage: firewall.sh up [only] | down" >&2 && exit 2 ;;
esac
