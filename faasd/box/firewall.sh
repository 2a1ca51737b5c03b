#!/bin/bash
# A firewall that closes what faasd leaves open:
#
#   firewall.sh up [only]    idempotent; "only" drops all forwarded packets that are not
#                            faasd's, for a machine that did not forward before
#   firewall.sh down
#
# - A host in the same network that routes faasd's network to this machine reaches every
#   container; and the provider, which can call any function, listens on every address.
#   So packets from outside to either are dropped. Containers' own connections are
#   masqueraded, so no answers are addressed to faasd's network.
# - A container can reach the cloud's metadata service, which has the machine's user data
#   and credentials. DNS is allowed: some clouds have their resolver at the same address.
#
# The rules are in the table raw, which is evaluated before the rules of CNI, ufw or
# Docker can accept a packet.
set -euo pipefail
export PATH=$PATH:/usr/sbin:/sbin

bridge=openfaas0 network=10.62.0.0/16 provider=8081 # faasd's

# hook IPTABLES TABLE CHAIN OURS -I|-A: adds a jump from CHAIN to our chain, once.
hook() { "$1" -w 10 -t "$2" -C "$3" -j "$4" 2>/dev/null || "$1" -w 10 -t "$2" "$5" "$3" -j "$4"; }

# unhook IPTABLES TABLE CHAIN OURS: removes the jump and our chain.
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
	# faasd's network has only IPv4, but the provider listens on both.
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
