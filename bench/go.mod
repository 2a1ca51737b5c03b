module github.com/kiosk-shop/kiosk/bench

go 1.26
