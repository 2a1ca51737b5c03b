// The shop page: it shows products, signs a customer in, and places orders, all
// through the public API. Every rule is the API's; what it refuses is shown.
"use strict";

const $ = (selector, root = document) => root.querySelector(selector);

// element builds DOM nodes; text is only ever set as text.
function element(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

// --- the API ---------------------------------------------------------------

// The session lives in this tab alone.
const session = {
  get() { return JSON.parse(sessionStorage.getItem("session") || "null"); },
  set(grant) { grant ? sessionStorage.setItem("session", JSON.stringify(grant)) : sessionStorage.removeItem("session"); },
};

const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1);

class Refused extends Error {
  constructor(status, problem) {
    const details = (problem.errors || []).map((e) => `${e.field} ${e.message}`);
    const text = [problem.detail || (details.length ? "" : problem.title), ...details].filter(Boolean).join("\n");
    super(sentence(text));
    this.status = status;
  }
}

async function request(method, path, body, headers = {}) {
  const grant = session.get();
  if (grant) headers.Authorization = `Bearer ${grant.token}`;
  if (body) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(path, { method, headers, body: body && JSON.stringify(body), signal: AbortSignal.timeout(25000) });
  } catch {
    throw new Refused(0, { detail: "The shop cannot be reached. Please try again." });
  }
  const json = (response.headers.get("Content-Type") || "").includes("json") ? await response.json() : {};
  if (!response.ok) throw new Refused(response.status, json);
  return { json, response };
}

// A refresh token works once, so requests that meet an expired token at the
// same time share one renewal.
let renewal = null;
function renew() {
  renewal ??= (async () => {
    const old = session.get();
    const { json } = await request("POST", "/api/users/refresh", { refresh_token: old.refresh_token });
    session.set({ ...old, ...json });
  })().finally(() => { renewal = null; });
  return renewal;
}

async function api(method, path, body, headers) {
  try {
    return await request(method, path, body, { ...headers });
  } catch (error) {
    if (error.status !== 401 || !session.get()) throw error;
    try {
      await renew();
    } catch (failure) {
      if (failure.status !== 401) throw failure;
      session.set(null);
      showAccount();
      throw new Refused(401, { detail: "Please sign in again." });
    }
    return request(method, path, body, { ...headers });
  }
}

let fade;
function say(text) {
  $("#message").textContent = text;
  clearTimeout(fade);
  fade = setTimeout(() => { $("#message").textContent = ""; }, 5000);
}

// attempt runs what a click asked for, with the button out of reach meanwhile.
async function attempt(button, action) {
  button.disabled = true;
  try {
    await action();
  } catch (error) {
    say(error.message);
  } finally {
    button.disabled = false;
  }
}

const money = (amount, currency) => new Intl.NumberFormat(undefined, { style: "currency", currency }).format(amount);

// --- products --------------------------------------------------------------

let more = ""; // where the page after the last one shown is
let asked = 0; // the latest search wins, whatever order answers come in

// linked returns the path that an answer's Link header (RFC 8288) has for a
// relation, or nothing.
function linked(response, relation) {
  const links = (response.headers.get("Link") || "").matchAll(/<([^>]*)>; rel="([^"]*)"/g);
  return [...links].find(([, , name]) => name === relation)?.[1] || "";
}

async function showProducts(next) {
  const mine = ++asked;
  const query = new URLSearchParams({ limit: 24, sort: $("#search").sort.value });
  if ($("#search").q.value.trim()) query.set("q", $("#search").q.value.trim());
  $("#products").setAttribute("aria-busy", "true");
  if (!next) $("#more").hidden = true; // it leads on in another list
  try {
    const { json, response } = await api("GET", next ? more : `/api/inventory?${query}`);
    if (mine !== asked) return;
    if (!next) $("#products").replaceChildren();
    $("#products").append(...json.map(productCard));
    $("#nothing").hidden = $("#products").children.length > 0;
    more = linked(response, "next");
    $("#more").hidden = !more;
  } catch (error) {
    if (mine === asked) say(error.message);
  } finally {
    if (mine === asked) $("#products").setAttribute("aria-busy", "false");
  }
}

function productCard(product) {
  const tile = element("div", { className: "tile", ariaHidden: "true" }, [...product.name][0].toUpperCase());
  const hue = [...product.name].reduce((sum, c) => (sum * 31 + c.codePointAt(0)) % 360, 7);
  tile.style.setProperty("--hue", hue);
  const few = product.stock > 0 && product.stock <= 5;
  const stock = element("span", { className: few ? "stock few" : "stock" }, product.stock === 0 ? "sold out" : few ? `only ${product.stock} left` : "in stock");
  const add = element("button", { type: "button", disabled: product.stock === 0, ariaLabel: `Add ${product.name} to the basket` }, "Add");
  add.addEventListener("click", () => changeBasket(product, 1));
  return element("li", { className: "product" }, tile,
    element("div", { className: "text" }, element("h3", {}, product.name), stock, element("p", { className: "note" }, product.description)),
    element("div", { className: "buy" }, element("strong", {}, money(product.price, product.currency)), add));
}

// --- the basket ------------------------------------------------------------

const basket = new Map(JSON.parse(sessionStorage.getItem("basket") || "[]"));
// One key for one basket: pressing the button again after a lost answer does
// not order twice.
let key = null;

function changeBasket(product, by) {
  const quantity = (basket.get(product.id)?.quantity || 0) + by;
  if (quantity > 0) basket.set(product.id, { product, quantity });
  else basket.delete(product.id);
  key = null;
  showBasket();
}

function showBasket() {
  sessionStorage.setItem("basket", JSON.stringify([...basket]));
  const lines = [...basket.values()];
  $("#basket").replaceChildren(...lines.map(({ product, quantity }) => {
    const less = element("button", { type: "button", className: "quiet", ariaLabel: `One ${product.name} less` }, "−");
    const more = element("button", { type: "button", className: "quiet", ariaLabel: `One ${product.name} more` }, "+");
    less.addEventListener("click", () => changeBasket(product, -1));
    more.addEventListener("click", () => changeBasket(product, 1));
    return element("li", {},
      element("span", { className: "what" }, product.name, element("small", {}, money(product.price, product.currency))),
      less, element("span", { className: "count" }, String(quantity)), more);
  }));
  const empty = lines.length === 0;
  $("#basket-empty").hidden = !empty;
  $("#basket-total").hidden = $("#order").hidden = empty;
  if (!empty) {
    const cents = lines.reduce((sum, l) => sum + Math.round(l.product.price * 100) * l.quantity, 0);
    $("#basket-total strong").textContent = money(cents / 100, lines[0].product.currency);
  }
}

async function placeOrder() {
  if (!session.get()) return openDoor(false);
  key ??= crypto.randomUUID ? crypto.randomUUID() : `${Date.now()}-${Math.random()}`;
  const items = [...basket.values()].map(({ product, quantity }) => ({ product_id: product.id, quantity }));
  const { json } = await api("POST", "/api/orders", { items }, { "Idempotency-Key": key });
  key = null;
  basket.clear();
  showBasket();
  say(sentence(json.message));
  await showOrders();
}

// --- orders ----------------------------------------------------------------

let look; // the next look at orders whose stock is still being taken
let settling = false;

async function showOrders() {
  clearTimeout(look);
  $("#orders-section").hidden = !session.get();
  if (!session.get()) return;
  const me = session.get().id;
  const { json } = await api("GET", `/api/orders?limit=10${me ? `&user_id=${me}` : ""}`);
  $("#orders").replaceChildren(...json.map(orderLine));
  $("#orders-empty").hidden = json.length > 0;
  const unsettled = json.some((o) => o.stock === "PENDING");
  if (unsettled) look = setTimeout(() => showOrders().catch(() => {}), 1000);
  else if (settling) showProducts(false); // their stock is another now
  settling = unsettled;
}

function orderLine(order) {
  const what = order.items.map((i) => `${i.quantity} × ${i.name}`).join(", ");
  const [label, kind] = state(order);
  const line = element("li", {},
    element("span", { className: "what" }, what, element("small", {}, `${new Date(order.created_at).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" })} · ${money(order.total, order.currency)}`)),
    element("span", { className: `state ${kind}` }, label));
  const traces = document.body.dataset.traces;
  if (traces) $(".what small", line).append(" · ", element("a", { href: `${traces}/orders/${order.id}`, target: "_blank", rel: "noopener" }, "trace"));
  if (order.status === "PENDING") {
    const cancel = element("button", { type: "button", className: "quiet", ariaLabel: "Cancel this order", title: "Cancel" }, "×");
    cancel.addEventListener("click", () => attempt(cancel, async () => {
      await api("PUT", `/api/orders/${order.id}/status`, { status: "CANCELLED" });
      await showOrders();
      await showProducts(false);
    }));
    line.append(cancel);
  }
  return line;
}

function state(order) {
  if (order.reason === "out_of_stock") return ["out of stock", "bad"];
  if (order.status === "CANCELLED") return ["cancelled", ""];
  if (order.status === "COMPLETED") return ["completed", "good"];
  return order.stock === "TAKEN" ? ["confirmed", "good"] : ["placed", ""];
}

// --- the account -----------------------------------------------------------

function showAccount() {
  $("#account").textContent = session.get() ? "Sign out" : "Sign in";
  $("#account").title = session.get()?.name || "";
  $("#mine").hidden = !session.get();
  $("#orders-section").hidden = !session.get();
}

let registering = false;

function openDoor(register) {
  registering = register;
  const door = $("#door");
  $("#door-title").textContent = $("[type=submit]", door).textContent = register ? "Create account" : "Sign in";
  $("[data-switch]", door).textContent = register ? "Sign in" : "Create an account";
  for (const node of door.querySelectorAll("[data-register]")) node.hidden = !register;
  for (const node of door.querySelectorAll("[data-login]")) node.hidden = register;
  const form = $("form", door);
  form.email.required = register;
  form.username.required = !register;
  form.password.toggleAttribute("minlength", register);
  if (register) form.password.minLength = 8;
  form.password.autocomplete = register ? "new-password" : "current-password";
  $(".problem", door).hidden = true;
  if (!door.open) door.showModal();
}

async function enter(form) {
  const { name, email, username, password } = form;
  if (registering) {
    await api("POST", "/api/users/register", { email: email.value, password: password.value, ...(name.value && { name: name.value }) });
  }
  const grant = (await api("POST", "/api/users/authenticate", { username: registering ? email.value : username.value, password: password.value })).json;
  session.set(grant);
  const profile = (await api("GET", "/api/users/me")).json;
  session.set({ ...session.get(), id: profile.id, name: profile.name || profile.username });
  form.reset();
  $("#door").close();
  showAccount();
  await showOrders();
}

// --- wiring ----------------------------------------------------------------

$("#search").addEventListener("submit", (event) => { event.preventDefault(); showProducts(false); });
let typing;
$("#search").addEventListener("input", () => { clearTimeout(typing); typing = setTimeout(() => showProducts(false), 250); });
$("#more").addEventListener("click", () => attempt($("#more"), () => showProducts(true)));
$("#order").addEventListener("click", () => attempt($("#order"), placeOrder));
$("#account").addEventListener("click", () => attempt($("#account"), async () => {
  if (!session.get()) return openDoor(false);
  await api("POST", "/api/users/logout").catch(() => {}); // gone from here in any case
  session.set(null);
  showAccount();
}));
$("[data-switch]").addEventListener("click", () => openDoor(!registering));
$("[data-close]").addEventListener("click", () => $("#door").close());
$("#door form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const problem = $(".problem", $("#door"));
  problem.hidden = true;
  const submit = $("[type=submit]", $("#door"));
  submit.disabled = true;
  try {
    await enter(event.target);
  } catch (error) {
    problem.textContent = error.message;
    problem.hidden = false;
  } finally {
    submit.disabled = false;
  }
});

showAccount();
showBasket();
showProducts(false);
showOrders().catch((error) => say(error.message));
