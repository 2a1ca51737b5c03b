module github.com/kiosk-shop/kiosk/faasd/operator

go 1.26.0
