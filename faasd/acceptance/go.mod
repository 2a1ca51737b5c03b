module github.com/kiosk-shop/kiosk/faasd/acceptance

go 1.26
