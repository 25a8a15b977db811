"""Tiny language models of each family in published form, from a NumPy seed."""

import json

import numpy as np
import pytest
import tokenizers as hf
from safetensors import numpy as safetensors_numpy
from tokenizers import (
  decoders,
  models,
  normalizers,
  pre_tokenizers,
  processors,
)

VOCAB = 272
_SIZES = {
  'vocab_size': VOCAB,
  'hidden_size': 16,
  'intermediate_size': 24,
  'num_hidden_layers': 3,
  'num_attention_heads': 4,
  'num_key_value_heads': 2,
  'rms_norm_eps': 1e-6,
  'hidden_act': 'silu',
}
_LLAMA3 = {
  'rope_type': 'llama3',
  'factor': 8.0,
  'low_freq_factor': 1.0,
  'high_freq_factor': 4.0,
  'original_max_position_embeddings': 16,
}
FIELDS = {  # of config.json
  'llama': _SIZES | {'model_type': 'llama', 'rope_theta': 1e4},
  'llama3': _SIZES
  | {
    'model_type': 'llama',
    'rope_theta': 500.0,
    'rope_scaling': _LLAMA3,
    'head_dim': 8,
    'tie_word_embeddings': True,
  },
  'mistral': _SIZES
  | {'model_type': 'mistral', 'sliding_window': 5, 'rope_theta': 1e4},
  'qwen2': _SIZES
  | {
    'model_type': 'qwen2',
    'rope_theta': 1e6,
    'tie_word_embeddings': True,
    'sliding_window': 3,
    'use_sliding_window': False,
  },
  'qwen3': _SIZES | {'model_type': 'qwen3', 'rope_theta': 1e6, 'head_dim': 8},
  'gemma3': {k: v for k, v in _SIZES.items() if k != 'hidden_act'}
  | {
    'model_type': 'gemma3_text',
    'hidden_activation': 'gelu_pytorch_tanh',
    'head_dim': 8,
    'query_pre_attn_scalar': 8,
    'sliding_window': 5,
    'num_hidden_layers': 7,
    'rope_theta': 1e6,
    'rope_local_base_freq': 1e4,
    'sliding_window_pattern': 6,
  },
}
CHAT = {
  'llama3': "{{ '<|start_header_id|>' + message['role'] }}",
  'mistral': "{{ '[INST] ' + message['content'] + ' [/INST]' }}",
  'qwen2': "{{ '<|im_start|>' + message['role'] }}",
  'qwen3': "{{ '<|im_start|>' + role }}{% if enable_thinking %}<think>",
  'gemma3': "{{ '<start_of_turn>' + role }}",
}
END = {  # of a text
  'llama': '</s>',
  'llama3': '<|end_of_text|>',
  'mistral': '</s>',
  'qwen2': '<|endoftext|>',
  'qwen3': '<|endoftext|>',
  'gemma3': '<eos>',
}
_SPECIAL = {
  'llama3': [
    '<|begin_of_text|>',
    '<|end_of_text|>',
    '<|start_header_id|>',
    '<|end_header_id|>',
    '<|eot_id|>',
  ],
  'qwen2': ['<|endoftext|>', '<|im_start|>', '<|im_end|>'],
  'qwen3': ['<|endoftext|>', '<|im_start|>', '<|im_end|>', '<think>'],
}
_PIECES = {
  'llama': ['<unk>', '<s>', '</s>'],
  'mistral': ['<unk>', '<s>', '</s>'],
  'gemma3': ['<pad>', '<eos>', '<bos>', '<unk>'],
}
_WINDOWS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,N}|"
_WINDOWS += r' ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+'


def shapes(fields):
  """Name -> shape of each tensor, as in transformers."""
  width, count = fields['hidden_size'], fields['num_attention_heads']
  size = fields.get('head_dim') or width // count
  inner, shared = count * size, fields['num_key_value_heads'] * size
  kind, mlp_dim = fields['model_type'], fields['intermediate_size']
  rows = {'q_proj': inner, 'k_proj': shared, 'v_proj': shared}
  found = {'model.embed_tokens.weight': (VOCAB, width)}
  for i in range(fields['num_hidden_layers']):
    own = f'model.layers.{i}.'
    for name, out in rows.items():
      found[f'{own}self_attn.{name}.weight'] = (out, width)
      if kind == 'qwen2':
        found[f'{own}self_attn.{name}.bias'] = (out,)
    found[f'{own}self_attn.o_proj.weight'] = (width, inner)
    norms = ['input', 'post_attention']
    if kind == 'gemma3_text':
      norms += ['pre_feedforward', 'post_feedforward']
    found |= {f'{own}{name}_layernorm.weight': (width,) for name in norms}
    if kind in ('qwen3', 'gemma3_text'):
      found |= {f'{own}self_attn.{n}_norm.weight': (size,) for n in 'qk'}
    found |= {f'{own}mlp.{n}_proj.weight': (mlp_dim, width) for n in ('gate',)}
    found[f'{own}mlp.up_proj.weight'] = (mlp_dim, width)
    found[f'{own}mlp.down_proj.weight'] = (width, mlp_dim)
  found['model.norm.weight'] = (width,)
  if not fields.get('tie_word_embeddings', kind == 'gemma3_text'):
    found['lm_head.weight'] = (VOCAB, width)
  return found


def state(family):
  """Random weights of a model, the same on every machine."""
  rng = np.random.default_rng(sorted(FIELDS).index(family))
  fields = FIELDS[family]
  found = {}
  for name, shape in shapes(fields).items():
    array = rng.normal(size=shape) * (0.4 if len(shape) == 2 else 0.2)
    around_one = 'norm' in name and family != 'gemma3'
    found[name] = (array + around_one).astype(np.float32)
  return found


def write_folder(folder, family, *, shards=1, dtype=np.float32, **changes):
  """Writes a model as transformers does."""
  folder.mkdir(exist_ok=True)
  arrays = {k: v.astype(dtype) for k, v in state(family).items()}
  if shards == 1:
    safetensors_numpy.save_file(arrays, folder / 'model.safetensors')
  else:
    places = {}
    for shard in range(shards):
      name = f'model-{shard + 1:05}-of-{shards:05}.safetensors'
      own = dict(list(arrays.items())[shard::shards])
      safetensors_numpy.save_file(own, folder / name)
      places |= dict.fromkeys(own, name)
    index = json.dumps({'metadata': {}, 'weight_map': places})
    (folder / 'model.safetensors.index.json').write_text(index)
  config = json.dumps(FIELDS[family] | changes)
  (folder / 'config.json').write_text(config)
  make_tokenizer(family).save(str(folder / 'tokenizer.json'))
  own = {'eos_token': END[family]}
  if family in CHAT:
    own['chat_template'] = CHAT[family]
  (folder / 'tokenizer_config.json').write_text(json.dumps(own))
  return folder


def make_tokenizer(family):
  """A tokenizer of the family's kind."""
  if family in _PIECES:
    return _sentence_piece(family)
  letters = sorted(pre_tokenizers.ByteLevel.alphabet())
  merges = [('Ġ', 't'), ('h', 'e'), ('Ġt', 'he')]
  names = [*letters, *(a + b for a, b in merges), *_SPECIAL[family]]
  names += [f'<|reserved_{i}|>' for i in range(VOCAB - len(names))]
  vocabulary = {name: i for i, name in enumerate(names)}
  own = {'ignore_merges': True} if family == 'llama3' else {}
  tokenizer = hf.Tokenizer(models.BPE(vocab=vocabulary, merges=merges, **own))
  digits = '3' if family == 'llama3' else '1'
  pattern = hf.Regex(_WINDOWS.replace('1,N', f'1,{digits}'))
  if family != 'llama3':
    tokenizer.normalizer = normalizers.NFC()
  tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
    [
      pre_tokenizers.Split(pattern, 'isolated'),
      pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
  )
  tokenizer.decoder = decoders.ByteLevel()
  tokenizer.add_special_tokens(names[len(letters) + len(merges) :])
  if family == 'llama3':
    _start(tokenizer, '<|begin_of_text|>')
  return tokenizer


def pieces(family):
  """Pieces of a SentencePiece model with their scores and types."""
  found = [(name, 0.0, 3) for name in _PIECES[family]]
  if family == 'gemma3':
    found += [('<start_of_turn>', 0.0, 3), ('<end_of_turn>', 0.0, 3)]
  found = [
    (name, score, 2 if name == '<unk>' else kind) for name, score, kind in found
  ]
  bytes_ = [(f'<0x{i:02X}>', 0.0, 6) for i in range(256)]
  merged = ['he', '▁t', '▁the']
  singles = ['▁', *'aehst'][: VOCAB - len(found) - len(bytes_) - len(merged)]
  found += bytes_ + [(name, -1.0 - i, 1) for i, name in enumerate(merged)]
  return found + [(name, -10.0 - i, 1) for i, name in enumerate(singles)]


def _sentence_piece(family):
  names = [name for name, _, _ in pieces(family)]
  names += [f'<unused{i}>' for i in range(VOCAB - len(names))]
  vocabulary = {name: i for i, name in enumerate(names)}
  merges = [('h', 'e'), ('▁', 't'), ('▁t', 'he')]
  tokenizer = hf.Tokenizer(
    models.BPE(
      vocab=vocabulary,
      merges=merges,
      unk_token='<unk>',
      fuse_unk=True,
      byte_fallback=True,
    )
  )
  replace = normalizers.Replace(' ', '▁')
  back = [decoders.Replace('▁', ' '), decoders.ByteFallback(), decoders.Fuse()]
  if family == 'gemma3':
    tokenizer.normalizer = replace
  else:
    steps = [normalizers.Prepend('▁'), replace]
    tokenizer.normalizer = normalizers.Sequence(steps)
    back.append(decoders.Strip(content=' ', left=1, right=0))
  tokenizer.decoder = decoders.Sequence(back)
  special = [name for name, _, kind in pieces(family) if kind in (2, 3)]
  tokenizer.add_special_tokens(special)
  _start(tokenizer, '<bos>' if family == 'gemma3' else '<s>')
  return tokenizer


def _start(tokenizer, name):
  tokenizer.post_processor = processors.TemplateProcessing(
    single=f'{name} $A', special_tokens=[(name, tokenizer.token_to_id(name))]
  )


def write_gguf(path, family, *, quantised=None, fields=()):
  """A GGUF file as llama.cpp's converter writes it."""
  gguf = pytest.importorskip('gguf', reason='the package gguf is not installed')
  config = FIELDS[family]
  kind = {'llama3': 'llama', 'mistral': 'llama'}.get(family, family)
  heads, shared = config['num_attention_heads'], config['num_key_value_heads']
  size = config.get('head_dim') or config['hidden_size'] // heads
  writer = gguf.GGUFWriter(path, kind)
  writer.add_embedding_length(config['hidden_size'])
  writer.add_block_count(config['num_hidden_layers'])
  writer.add_feed_forward_length(config['intermediate_size'])
  writer.add_head_count(heads)
  writer.add_head_count_kv(shared)
  writer.add_rope_freq_base(config['rope_theta'])
  writer.add_layer_norm_rms_eps(config['rms_norm_eps'])
  if 'head_dim' in config:
    writer.add_key_length(size)
  if family in ('mistral', 'gemma3'):
    writer.add_sliding_window(config['sliding_window'])
  for name, value in fields:
    writer.add_string(f'{kind}.{name}', value)
  _write_tokenizer(writer, family)
  if family in CHAT:
    writer.add_chat_template(CHAT[family])
  number = {arch: i for i, arch in gguf.MODEL_ARCH_NAMES.items()}[kind]
  names = gguf.get_tensor_name_map(number, config['num_hidden_layers'])
  for name, array in state(family).items():
    if kind == 'llama' and 'q_proj' in name:
      array = permute(array, heads)
    if kind == 'llama' and 'k_proj' in name:
      array = permute(array, shared)
    if family == 'gemma3' and name.endswith('norm.weight'):
      array = array + 1
    own = names.get_name(name, try_suffixes=('.weight', '.bias'))
    dtype = None
    if quantised and array.ndim == 2:
      dtype = gguf.GGMLQuantizationType[quantised]
      try:
        array = gguf.quantize(array, dtype)
      except gguf.QuantError:  # rows shorter than a block
        dtype = None
    writer.add_tensor(own, array, raw_dtype=dtype)
  if family == 'llama3':
    factors = np.array(llama3_factors(config, size), np.float32)
    writer.add_tensor('rope_freqs.weight', factors)
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()
  return path


def _write_tokenizer(writer, family):
  if family in _PIECES:
    own = pieces(family)
    own += [(f'<unused{i}>', 0.0, 5) for i in range(VOCAB - len(own))]
    names, scores, types = map(list, zip(*own, strict=True))
    writer.add_tokenizer_model('llama')
    writer.add_tokenizer_pre('default')
    writer.add_token_scores(scores)
    writer.add_add_space_prefix(family != 'gemma3')
    writer.add_unk_token_id(names.index('<unk>'))
    start = '<bos>' if family == 'gemma3' else '<s>'
  else:
    tokenizer = make_tokenizer(family)
    names = [tokenizer.id_to_token(i) for i in range(VOCAB)]
    special = tokenizer.get_added_tokens_decoder()
    types = [3 if i in special else 1 for i in range(VOCAB)]
    writer.add_tokenizer_model('gpt2')
    writer.add_tokenizer_pre('llama-bpe' if family == 'llama3' else 'qwen2')
    writer.add_token_merges(['Ġ t', 'h e', 'Ġt he'])
    start = '<|begin_of_text|>'
  writer.add_token_list(names)
  writer.add_token_types(types)
  writer.add_eos_token_id(names.index(END[family]))
  if start in names:
    writer.add_bos_token_id(names.index(start))
    writer.add_add_bos_token(True)


def permute(array, heads):
  """The permutation of query and key rows, as in llama.cpp's converter."""
  return (
    array.reshape(heads, 2, array.shape[0] // heads // 2, *array.shape[1:])
    .swapaxes(1, 2)
    .reshape(array.shape)
  )


def llama3_factors(config, size):
  """The divisors of frequencies, as in llama.cpp's converter."""
  own = config['rope_scaling']
  low, high = own['low_freq_factor'], own['high_freq_factor']
  length = own['original_max_position_embeddings']
  found = []
  for place in range(0, size, 2):
    wave = 2 * np.pi * config['rope_theta'] ** (place / size)
    if wave < length / high:
      found.append(1.0)
    elif wave > length / low:
      found.append(own['factor'])
    else:
      smooth = (length / wave - low) / (high - low)
      found.append(1 / ((1 - smooth) / own['factor'] + smooth))
  return found
